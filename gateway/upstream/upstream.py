"""Upstream: a named service behind the gateway; picks a target, calls it, minds the deadlines."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from gateway.options import Duration, Options, Size
from gateway.upstream.target import TargetOptions


class TimeoutOptions(Options):
    """Deadlines of one call; each is answered 504 when the head was not sent yet, and cuts the response otherwise."""

    connect: Duration = 2.0
    """Opening a connection to a target."""
    first_byte: Duration = 30.0
    """From the request's last byte to the head of the response."""
    idle: Duration = 60.0
    """Silence between two pieces of a body, in either direction."""
    total: Duration = 300.0
    """The whole call."""


class UpstreamOptions(Options):
    """A service and the addresses that provide it."""

    targets: list[TargetOptions] = Field(min_length=1)
    """The addresses, taken in turn."""
    balancer: Literal["round_robin"] = "round_robin"
    """How a target is picked."""
    timeouts: TimeoutOptions = TimeoutOptions()
    """Deadlines of one call."""
    max_connections: int = Field(default=512, ge=1)
    """Connections of one process to all targets together."""
    max_waiting: int = Field(default=1024, ge=0)
    """Calls of one process that may wait for a connection; the next one is answered 503 at once."""
    wait_timeout: Duration = 1.0
    """How long a call waits for a connection before it is answered 503."""
    keepalive_timeout: Duration = 55.0
    """How long an unused connection stays open; keep it below the targets' own limit."""
    max_response_head: Size = 64 * 1024
    """Largest head of a response; a larger one is answered 502."""
    host: str = "preserve"
    """The Host field sent upstream: `preserve` the client's, the `target`'s own, or a literal name."""

    @field_validator("targets", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return (
            [{"url": item} if isinstance(item, str) else item for item in value] if isinstance(value, list) else value
        )
