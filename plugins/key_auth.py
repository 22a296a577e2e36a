"""Know the consumer by an API key."""

from __future__ import annotations

from collections.abc import Awaitable

from pydantic import Field, model_validator

from gateway.authentication import Authenticator, Found, Realm
from gateway.consumers import Consumer
from gateway.credentials import credentials_of, in_target, the_only
from gateway.directory.caller import Caller
from gateway.exchange import Exchange
from gateway.header_options import FieldName
from gateway.headers import Headers
from gateway.keys import LONGEST_KEY, PREFIX, digest, looks_valid
from gateway.path import without_parameter
from gateway.plugin import PluginConfig
from gateway.problem import KeyRestricted
from gateway.services import Services


class Config(PluginConfig):
    """Where the key is looked for; one place must hold it, and no two may disagree."""

    header: FieldName | None = "X-Api-Key"
    """The header field that holds the key; null for none."""
    bearer: bool = True
    """Accept `Authorization: Bearer <key>` too."""
    query: str | None = Field(default=None, min_length=1)
    """The query parameter that holds the key; null for none. Keys in URLs end up in logs: avoid it."""
    forward: bool = False
    """Leave the key in the request that goes upstream."""
    realm: Realm = "tallygate"
    """What a refusal calls the protected area."""

    @model_validator(mode="after")
    def _a_key_has_a_place(self) -> Config:
        if self.header is None and not self.bearer and self.query is None:
            raise ValueError("a key has no place (name a `header` or a `query` parameter, or write `bearer: true`)")
        return self


class KeyAuth(Authenticator[Config]):
    """Refuses with 401 and never says why: no key, a malformed one and one that is not valid look alike.

    Keys are those of fixed `consumers`, made by `tallygate keys new`, and with the section `directory` those of the
    control plane, made by `tallygate key add`. One of those may be restricted to routes and networks: elsewhere it is
    refused with 403.
    """

    asks_for_secrets = True

    @classmethod
    def in_authorization(cls, config: Config) -> str | None:
        return "bearer" if config.bearer and config.header is None and config.query is None else None

    @classmethod
    def explain(cls, config: Config, exchange: Exchange) -> tuple[()]:
        request = exchange.request
        if config.query is not None and not config.forward:
            request.target, _ = without_parameter(request.target, config.query)
        return ()

    def __init__(self, config: Config, services: Services) -> None:
        super().__init__(config, services)
        self._header = config.header.lower() if config.header is not None else None
        self._query = config.query
        self._bearer = config.bearer
        self._forward = config.forward
        self._find = self._in_fields  # bound once: `Headers.once` knows it again
        self._fixed = services.consumers.by_key_digest
        self._by_digest = services.directory.by_key_digest
        self.challenge = f'{"Bearer" if config.bearer else "ApiKey"} realm="{config.realm}"'

    def authenticate(self, exchange: Exchange) -> Found:
        request = exchange.request
        try:
            found = request.headers.once(self._find)
            if self._query is not None and "?" in request.target:
                found = in_target(request, self._query, found, self._digest, lambda _: self._forward)
        except ValueError:
            raise self.refusal() from None
        if found is None:
            return None
        consumer = self._by_digest(found)
        if consumer is None or isinstance(consumer, Consumer):
            return self._valid(consumer, exchange)
        return self._wait_for(consumer, exchange)

    async def _wait_for(self, consumer: Awaitable[Consumer | None], exchange: Exchange) -> Consumer:
        return self._valid(await consumer, exchange)

    def _valid(self, consumer: Consumer | None, exchange: Exchange) -> Consumer:
        if consumer is None:
            raise self.refusal()
        if isinstance(consumer, Caller) and consumer.restricted:
            _check_use(consumer, exchange)
        return consumer

    def _in_fields(self, headers: Headers) -> bytes | None:
        """The digest of the one key in the header fields, which is taken out of them unless it is to be forwarded.

        Raises ValueError for several, and what cannot be one.
        """
        found: list[str] = []
        if self._header is not None:
            found = headers.getall(self._header) if self._forward else headers.take(self._header)
        bearer = credentials_of(headers.getall("authorization"), "bearer") if self._bearer else None
        if bearer is not None and bearer.startswith(PREFIX):  # else some other credential, for the upstream
            found.append(bearer)
            if not self._forward:
                del headers["authorization"]
        return self._digest(found)

    def _digest(self, keys: list[str]) -> bytes | None:
        """The digest of a single key, None if there is none. Raises ValueError for several, and what cannot be one.

        Fixed consumers may have keys that we have not made; with all others the checksum is right, or nobody is asked.
        """
        key = the_only(keys)
        if key is None:
            return None
        if len(key) > LONGEST_KEY:
            raise ValueError("longer than any key")
        found = digest(key)
        if not looks_valid(key) and self._fixed(found) is None:
            raise ValueError("no key of ours")
        return found


def _check_use(caller: Caller, exchange: Exchange) -> None:
    """Raises KeyRestricted where this key may not be used."""
    if not caller.may_use(exchange.route, exchange.request.client):
        raise KeyRestricted
