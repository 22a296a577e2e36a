"""Target: one address of an upstream."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from pydantic import ConfigDict, field_validator

from gateway.options import Options


def _or_a_plain_url(schema: dict[str, Any]) -> None:
    block = dict(schema)
    schema.clear()
    schema["anyOf"] = [{"type": "string"}, block]


class TargetOptions(Options):
    """One address of an upstream. A plain URL is short for `{url: …}`."""

    model_config = ConfigDict(json_schema_extra=_or_a_plain_url)

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


class Target:
    """One address of an upstream, ready to be connected to. `authority` is what its own Host field would say.

    `url` is how it is known again after a reload.
    """

    __slots__ = ("address", "authority", "host", "port", "url")

    def __init__(self, options: TargetOptions) -> None:
        self.url = options.url
        parts = urlsplit(options.url)
        self.host = parts.hostname or ""
        self.port = parts.port or 80
        self.authority = parts.netloc
        self.address = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
