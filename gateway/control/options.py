"""Options of the control plane."""

from __future__ import annotations

from pydantic import Field, field_validator

from gateway.downstream.listener import parse_bind
from gateway.options import Duration, Options


class ControlOptions(Options):
    """The control plane: the API that organizations, users, roles, keys and subscriptions are kept with."""

    enabled: bool = True
    """Whether `tallygate up` starts it; `false` where it runs elsewhere, or not at all."""
    bind: str = "127.0.0.1:9091"
    """Address and port of the API. Put TLS before it where others than this machine are to reach it."""
    token_file: str = "var/control/token"  # noqa: S105  # a file's name
    """File with the bootstrap token, made at the first start. TALLYGATE_CONTROL_TOKEN has precedence."""
    connections: int = Field(default=8, ge=1, le=100)
    """Requests that are in PostgreSQL at once, each in a database connection of its own."""
    most_requests: int = Field(default=100, ge=1, le=10_000)
    """Requests under way at once, those that wait for a connection included; the next one is refused with 503."""
    deadline: Duration = Field(default=10.0, gt=0)
    """How long a request may take, from its head to the end of its answer."""
    audit_retention: Duration | None = Field(default=None, ge=30 * 86400.0)
    """For how long the audit log is kept, by whole UTC days: no less than 30 of them. Without it: for ever."""
    batch: int = Field(default=500, ge=1, le=1000)
    """Keys that are written to Redis in one step, about."""

    @field_validator("bind")
    @classmethod
    def _bind_is_an_address(cls, value: str) -> str:
        parse_bind(value)
        return value
