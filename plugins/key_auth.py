"""Know the consumer by an API key."""

from __future__ import annotations

from typing import Final, NoReturn

from pydantic import field_validator

from gateway.exchange import Exchange, Request
from gateway.headers import valid_field
from gateway.keys import LONGEST_KEY, digest
from gateway.plugin import Plugin, PluginConfig
from gateway.problem import Unauthorized
from gateway.services import Services

_BEARER: Final = "bearer "


class Config(PluginConfig):
    """Where the key is looked for; one place must hold it, and no two may disagree."""

    header: str | None = "X-Api-Key"
    """The header field that holds the key; null for none."""
    bearer: bool = True
    """Accept `Authorization: Bearer <key>` too."""
    query: str | None = None
    """The query parameter that holds the key; null for none. Keys in URLs end up in logs: avoid it."""
    forward: bool = False
    """Leave the key in the request that goes upstream."""
    realm: str = "tallygate"
    """What a refusal calls the protected area."""

    @field_validator("header")
    @classmethod
    def _header_is_a_name(cls, value: str | None) -> str | None:
        if value is not None and not valid_field(value, ""):
            raise ValueError(f"not the name of a header field: {value!r}")
        return value

    @field_validator("realm")
    @classmethod
    def _realm_can_be_quoted(cls, value: str) -> str:
        if not value.isascii() or not value.isprintable() or '"' in value or "\\" in value:
            raise ValueError(f"not a realm: {value!r} (plain ASCII without quotes and backslashes)")
        return value


class KeyAuth(Plugin[Config]):
    """Refuses with 401 and never says why: no key, a malformed one and an unknown one look alike."""

    def __init__(self, config: Config, services: Services) -> None:
        super().__init__(config, services)
        self._header = config.header.lower() if config.header is not None else None
        self._query = config.query
        self._bearer = config.bearer
        self._forward = config.forward
        self._by_digest = services.consumers.by_key_digest
        scheme = "Bearer" if config.bearer else "ApiKey"
        self._challenge = {"www-authenticate": f'{scheme} realm="{config.realm}"'}

    def on_request(self, exchange: Exchange) -> None:
        request = exchange.request
        key = self._take_key(request)
        if key is None or len(key) > LONGEST_KEY:
            self._refuse()
        consumer = self._by_digest(digest(key))
        if consumer is None:
            self._refuse()
        exchange.consumer = consumer
        request.identity = consumer.identity

    def _take_key(self, request: Request) -> str | None:
        """The one key the request holds, taken out of it unless it is to be forwarded."""
        headers, forward = request.headers, self._forward
        key: str | None = None
        if self._header is not None:
            found = headers.getall(self._header) if forward else headers.take(self._header)
            if found:
                key = found[0]
                if len(found) > 1 and any(other != key for other in found):
                    self._refuse()
        if self._bearer and "authorization" in headers:
            key = self._take_bearer(request, key)
        if self._query is not None and "?" in request.target:
            target, values = without_parameter(request.target, self._query)
            if values:
                if len({*values, key or values[0]}) > 1:
                    self._refuse()
                key = values[0]
                if not forward:
                    request.target = target
        return key

    def _take_bearer(self, request: Request, key: str | None) -> str | None:
        found = request.headers.getall("authorization")
        if len(found) > 1:
            self._refuse()
        if found[0][: len(_BEARER)].lower() != _BEARER:
            return key  # some other scheme, for the upstream
        token = found[0][len(_BEARER) :].strip()
        if not token.startswith("tg_"):
            return key  # some other token, for the upstream
        if key is not None and key != token:
            self._refuse()
        if not self._forward:
            del request.headers["authorization"]
        return token

    def _refuse(self) -> NoReturn:
        raise Unauthorized(headers=self._challenge)


def without_parameter(target: str, name: str) -> tuple[str, list[str]]:
    """A target without the query parameters of this name, all else byte for byte, and the values they had."""
    path, _, query = target.partition("?")
    kept: list[str] = []
    values: list[str] = []
    for pair in query.split("&"):
        key, _, value = pair.partition("=")
        if key == name:
            values.append(value)
        else:
            kept.append(pair)
    if not values:
        return target, []
    return (f"{path}?{'&'.join(kept)}" if kept else path), values
