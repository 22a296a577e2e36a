"""Options of the control plane."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from gateway.downstream.listener import Bind
from gateway.options import Duration, Options
from gateway.tls.server import ListenerTlsOptions


class ControlClientOptions(Options):
    """How the commands (`tallygate org`, `key` …) reach the API."""

    url: Annotated[str, Field(pattern=r"^https?://[^/?#@\s]+(/[^?#\s]*)?$")] | None = None
    """Where it is, such as `https://control.example.com:9091`; the address in `bind` if absent.
    TALLYGATE_CONTROL_URL has precedence.
    """
    ca: str | None = None
    """File (PEM) with the certificates of the authorities that its certificate must be of; the system's if absent.
    TALLYGATE_CONTROL_CA has precedence.
    """
    certificate: str | None = None
    """File (PEM) with the certificate that is shown to it if it asks (mTLS), and after it those of its chain."""
    key: str | None = None
    """File (PEM) with that certificate's private key."""

    @model_validator(mode="after")
    def _belong_together(self) -> ControlClientOptions:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("`certificate` and `key` belong together")
        return self


class ControlOptions(Options):
    """The control plane: the API that organizations, users, roles, keys and subscriptions are kept with."""

    enabled: bool = True
    """Whether `tallygate up` starts it; `false` where it runs elsewhere, or not at all."""
    bind: Bind = "127.0.0.1:9091"
    """Address and port of the API. Where others than this machine are to reach it, give it `tls`."""
    tls: ListenerTlsOptions | None = None
    """HTTPS: which certificate is shown, and which are asked for."""
    client: ControlClientOptions = ControlClientOptions()
    """How the commands reach it."""
    token_file: str = "var/control/token"  # noqa: S105  # a file's name
    """File with the bootstrap token, made at the first start. TALLYGATE_CONTROL_TOKEN has precedence."""
    connections: int = Field(default=8, ge=1, le=100)
    """Requests that are in PostgreSQL at once, each in a database connection of its own."""
    most_requests: int = Field(default=100, ge=1, le=10_000)
    """Requests under way at once, those that wait for a connection included; the next one is refused with 503. A
    quarter of them can be of one organization's keys.
    """
    deadline: Duration = Field(default=10.0, gt=0)
    """How long a request may take, from its head to the end of its answer."""
    audit_retention: Duration | None = Field(default=None, ge=30 * 86400.0)
    """For how long the audit log is kept, by whole UTC days: no less than 30 of them. Without it: for ever."""
    batch: int = Field(default=500, ge=1, le=1000)
    """Keys that are written to Redis in one step, about."""
