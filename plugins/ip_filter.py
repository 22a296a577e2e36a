"""Let in or keep out by the client's address; behind trusted proxies the address that they say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, TypeAlias

from pydantic import Field, model_validator

from gateway.exchange import Exchange
from gateway.networks import Network, Networks
from gateway.plugin import Plugin, PluginConfig
from gateway.problem import AddressRefused
from gateway.services import Services

Listed: TypeAlias = Annotated[list[Network], Field(min_length=1)]


class Config(PluginConfig):
    """Who may come in. At least one of the lists is needed."""

    allow: Listed | None = None
    """Addresses and networks that may come in; without this list, all that `deny` does not name."""
    deny: Listed | None = None
    """Addresses and networks that may not come in, even if `allow` names them."""

    @model_validator(mode="after")
    def _says_something(self) -> Config:
        if self.allow is None and self.deny is None:
            raise ValueError("needs `allow`, `deny` or both")
        denied = Networks(self.deny or ())
        for network in self.allow or ():
            if denied.cover(network):
                raise ValueError(f"{network} is allowed in vain: `deny` names all of it, and wins")
        return self


class IpFilter(Plugin[Config]):
    """Refuses clients by their address, with 403; behind trusted proxies it is the address that they say.

    Thousands of networks are looked through as quickly as ten. List it first, so that little is spent on strangers.
    """

    guards = "address filter"

    @classmethod
    def explain(cls, config: Config, exchange: Exchange) -> Iterator[str]:
        if not exchange.request.client:
            yield "it depends on the client's address"
            return
        _Filter(config).check(exchange.request.client)
        yield f"{exchange.request.client} may come in"

    def __init__(self, config: Config, services: Services) -> None:
        super().__init__(config, services)
        self._filter = _Filter(config)

    def on_request(self, exchange: Exchange) -> None:
        self._filter.check(exchange.request.client)


class _Filter:
    """The lists, made ready."""

    def __init__(self, config: Config) -> None:
        self._allowed = Networks(config.allow) if config.allow is not None else None
        self._denied = Networks(config.deny or ())

    def check(self, client: str) -> None:
        """Raises AddressRefused."""
        if client in self._denied or (self._allowed is not None and client not in self._allowed):
            raise AddressRefused
