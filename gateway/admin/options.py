"""Admin options: where operators find the node. Apart from the listener, which edge processes have no use for."""

from __future__ import annotations

from pydantic import field_validator

from gateway.downstream.listener import parse_bind
from gateway.options import Options


class AdminOptions(Options):
    """The listener for operators: a page at /, and /health, /ready, /metrics, /status, /routes, /reload and so on."""

    bind: str = "127.0.0.1:9090"
    """Address and port. Keep it off the public network."""

    @field_validator("bind")
    @classmethod
    def _bind_is_an_address(cls, value: str) -> str:
        parse_bind(value)
        return value
