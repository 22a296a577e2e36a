"""Limit the size of request bodies, for many routes at once or for those who got this far in the chain."""

from __future__ import annotations

from pydantic import Field

from gateway.exchange import Exchange
from gateway.options import Size
from gateway.plugin import Plugin, PluginConfig
from gateway.problem import ContentTooLarge
from gateway.services import Services


class Config(PluginConfig):
    """How large a request's body may be."""

    size: Size = Field(ge=1)
    """Largest request body. Where the route's `max_body` is smaller, that one holds."""


class BodyLimit(Plugin[Config]):
    """Refuses larger request bodies with 413: at once where the request says its size, else as soon as more arrived.

    A route's `max_body` holds before the first plugin; this one can only lower it, for many routes at the top level,
    or behind authentication for those who got that far.
    """

    guards = "body limit"

    def __init__(self, config: Config, services: Services) -> None:
        super().__init__(config, services)
        self._size = config.size

    def on_request(self, exchange: Exchange) -> None:
        body = exchange.request.body
        if body.length == 0:
            return
        if (body.length or body.received) > self._size:
            raise ContentTooLarge
        body.limit = min(body.limit, self._size)
