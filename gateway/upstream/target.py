"""Target: one address of an upstream."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import field_validator

from gateway.options import Options


class TargetOptions(Options):
    """One address of an upstream. A plain URL is short for `{url: …}`."""

    url: str
    """`http://host:port`, without a path."""

    @field_validator("url")
    @classmethod
    def _url_is_an_origin(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError(f"not a target: {value!r} (write http://host:port, without a path)")
        if parts.username or parts.password:
            raise ValueError("a target's URL holds no user name or password")
        _ = parts.port  # raises ValueError for a port out of range
        return value
