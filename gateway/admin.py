"""Admin: health, readiness, metrics and routes, on a listener of its own that customers do not reach."""

from __future__ import annotations

from pydantic import field_validator

from gateway.listener import parse_bind
from gateway.options import Options


class AdminOptions(Options):
    """The listener for operators: /health, /ready, /metrics, /routes."""

    bind: str = "127.0.0.1:9090"
    """Address and port. Keep it off the public network."""

    @field_validator("bind")
    @classmethod
    def _bind_is_an_address(cls, value: str) -> str:
        parse_bind(value)
        return value
