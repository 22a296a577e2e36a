"""Tell browsers to come by HTTPS only (RFC 6797)."""

from __future__ import annotations

from typing import Final

from pydantic import Field, model_validator

from gateway.exchange import Exchange, Response
from gateway.headers import Headers
from gateway.options import Duration
from gateway.plugin import Plugin, PluginConfig
from gateway.services import Services

_YEAR: Final = 365 * 86400.0
"""What lists of preloaded sites ask for, at least."""


class Config(PluginConfig):
    """How long, and for which hosts."""

    max_age: Duration = Field(default=_YEAR, ge=0)
    """How long a browser remembers it; `0s` makes it forget."""
    include_subdomains: bool = False
    """All subdomains of the host come by HTTPS too."""
    preload: bool = False
    """The host may be put on lists that browsers are shipped with: hard to undo. Needs a year, and its subdomains."""

    @model_validator(mode="after")
    def _preload_is_meant(self) -> Config:
        if self.preload and (self.max_age < _YEAR or not self.include_subdomains):
            raise ValueError("`preload` needs `max_age: 365d` or more, and `include_subdomains: true`")
        return self


class Hsts(Plugin[Config]):
    """Tells browsers to come by HTTPS only (RFC 6797), in place of whatever the upstream tells them.

    It is said over HTTPS alone, since nobody may believe it otherwise (§7.2). To send on those who come by HTTP is
    what `redirect` does.
    """

    def __init__(self, config: Config, services: Services) -> None:
        super().__init__(config, services)
        subdomains = "; includeSubDomains" if config.include_subdomains else ""
        self._value = f"max-age={int(config.max_age)}{subdomains}{'; preload' if config.preload else ''}"
        self._say_it = self._say  # bound once: `Headers.once` knows it again

    def on_response(self, exchange: Exchange, response: Response) -> None:
        if exchange.request.scheme == "https":
            response.headers.once(self._say_it)

    def _say(self, headers: Headers) -> None:
        headers["Strict-Transport-Security"] = self._value
