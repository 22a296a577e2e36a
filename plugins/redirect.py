"""Send clients elsewhere, such as from HTTP to HTTPS: `{to: "https://{host}{target}"}`."""

from __future__ import annotations

import re
from typing import Final, Literal

from pydantic import field_validator

from gateway.exchange import Exchange, Response
from gateway.plugin import Plugin, PluginConfig
from gateway.services import Services
from gateway.template import Template, UrlTemplate

_BEGINNING: Final = re.compile(r"(?:https?|\{scheme\})://[^/]|/(?!/)|\{(?:path|target)\}.")
_SLASHES: Final = re.compile(r"^/{2,}")


class Config(PluginConfig):
    """Where to, and for how long that holds."""

    to: UrlTemplate
    """The new address: a template that begins with `http://`, `https://`, `{scheme}://` or a path."""
    status: Literal[301, 302, 307, 308] = 307
    """301 and 308 for good (browsers remember it), 302 and 307 for now; 307 and 308 keep method and body."""

    @field_validator("to")
    @classmethod
    def _leads_somewhere(cls, value: str) -> str:
        if value.removeprefix("{scheme}://{authority}") in ("{target}", "{path}?{query}"):
            raise ValueError("leads to where the request is already")
        if not _BEGINNING.match(value):
            raise ValueError(f"not an address to go to: {value!r} (write https://{{host}}{{target}}, or a path)")
        return value


class Redirect(Plugin[Config]):
    """Sends clients to another address; who is there already goes on to the upstream.

    Paths that lead to each other in a circle are refused when the configuration is read. An address that grows with
    each turn, such as `/v2{target}`, needs a route that it leads out of.
    """

    @classmethod
    def leads_to(cls, config: Config) -> str | None:
        return config.to if config.to.startswith("/") and "{" not in config.to else None

    def __init__(self, config: Config, services: Services) -> None:
        super().__init__(config, services)
        self._to = Template(config.to, url=True)
        self._status = config.status

    def on_request(self, exchange: Exchange) -> Response | None:
        request = exchange.request
        if request.target == "*":
            return None  # OPTIONS of the server as a whole: there is no other place to ask
        # A path that begins with two slashes would be read as a host.
        location = _SLASHES.sub("/", self._to.render(exchange))
        if location in (request.target, f"{request.scheme}://{request.host}{request.target}"):
            return None
        return Response(self._status, {"Location": location})
