"""Give every request an id, say it to the upstream and to the client."""

from __future__ import annotations

import re
from typing import Final

from gateway.clock import uuid_text
from gateway.exchange import Exchange, Note, Response
from gateway.header_options import RequestFieldName
from gateway.plugin import Plugin, PluginConfig
from gateway.services import Services

REQUEST_ID: Final = Note[str]()
_ACCEPTABLE: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Config(PluginConfig):
    """Where the id is said, and whether a client may bring its own."""

    header: RequestFieldName = "X-Request-Id"
    """The header field, on the request to the upstream and on the response."""
    trust: bool = False
    """Keep the id that the client sent, if it is 1 to 128 letters, digits, dots, dashes and underscores."""


class RequestId(Plugin[Config]):
    """The id is the exchange's own, a UUIDv7; with `trust` the client's, while usage keeps the exchange's."""

    def __init__(self, config: Config, services: Services) -> None:
        super().__init__(config, services)
        self._header = config.header
        self._trust = config.trust

    def on_request(self, exchange: Exchange) -> None:
        headers = exchange.request.headers
        name = ""
        if self._trust:
            claims = headers.getall(self._header)
            name = claims[0] if len(claims) == 1 and _ACCEPTABLE.fullmatch(claims[0]) else ""
        name = name or uuid_text(exchange.id)
        exchange[REQUEST_ID] = name
        headers[self._header] = name

    def on_response(self, exchange: Exchange, response: Response) -> None:
        response.headers[self._header] = exchange[REQUEST_ID]
