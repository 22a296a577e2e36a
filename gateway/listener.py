"""Listener: sockets and client connections; bytes from a client become an Exchange."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from gateway.options import Duration, Options, Size


def parse_bind(value: str) -> tuple[str, int]:
    """`0.0.0.0:8080` or `[::1]:8080` as host and port. Raises ValueError."""
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:]+)\]|([^\[\]:]+)):(\d{1,5})", value)
    if match is None or int(match[3]) > 65535:
        raise ValueError(f"not an address to listen on: {value!r} (write 0.0.0.0:8080 or [::1]:8080)")
    return match[1] or match[2], int(match[3])


class ListenerOptions(Options):
    """One address that clients connect to, and what a client may cost before it is let in."""

    bind: str
    """Address and port, such as `0.0.0.0:8080` or `[::]:8080`."""
    head_timeout: Duration = 10.0
    """A request's head must be complete this long after its first byte (or after the connection opened)."""
    idle_timeout: Duration = 75.0
    """A connection between two requests is closed after this long."""
    minimum_body_rate: Size = 240
    """Bytes a second below which a request's body is given up, measured over ten seconds."""
    send_timeout: Duration = 60.0
    """A client that takes nothing of its response for this long is disconnected."""
    max_head: Size = Field(default=32 * 1024, ge=1024)
    """Largest request head: request line and header fields together."""
    max_connections: int = Field(default=32768, ge=1)
    """Connections per process; the next one is closed at once."""
    max_connections_per_address: int = Field(default=16384, ge=1)
    """Connections per process from one address, unless it is a trusted proxy; the next one is closed at once."""

    @field_validator("bind")
    @classmethod
    def _bind_is_an_address(cls, value: str) -> str:
        parse_bind(value)
        return value
