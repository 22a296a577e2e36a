"""Know the consumer by an opaque token that its issuer is asked about (RFC 7662)."""

from __future__ import annotations

import re
from typing import Final, Literal

from gateway.authentication import Authenticator, Found
from gateway.credentials import InvalidToken, credentials_of
from gateway.directory.claimed import Claimed
from gateway.exchange import Exchange
from gateway.headers import Headers
from gateway.keys import PREFIX
from gateway.services import Services
from plugins.introspection.options import Config
from plugins.introspection.tokens import Presented, Tokens

__all__ = ["Config", "Introspection"]

_TOKEN: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*")  # b64token, RFC 6750 §2.1


class Introspection(Authenticator[Config]):
    """Takes any bearer token that is not one of our own API keys: list `jwt_auth` before it where both are used, which
    leaves it what only looks like a JWT.

    An answer is remembered for a while, and requests with the same token share one question. While the issuer does not
    answer, tokens that nobody knows are answered with 503. A token that is bound to a key or a certificate (`cnf`) is
    refused, because whoever presents it here does not prove to have that.
    """

    asks_for_secrets = True

    @classmethod
    def bearers(cls, config: Config) -> Literal["all"]:
        return "all"

    @classmethod
    def in_authorization(cls, config: Config) -> str:
        return "bearer"

    def __init__(self, config: Config, services: Services) -> None:
        super().__init__(config, services)
        self.challenge = f'Bearer realm="{config.realm}"'
        self._find = self._in_fields  # bound once: `Headers.once` knows it again
        self._tokens = services.joint(("introspection", config.model_dump_json()), lambda: Tokens(config, services))

    def inherit(self, previous: Introspection) -> None:
        self._tokens.inherit(previous._tokens)

    async def start(self) -> None:
        self._tokens.retain()

    async def stop(self) -> None:
        self._tokens.release()

    def authenticate(self, exchange: Exchange) -> Found:
        try:
            presented = exchange.request.headers.once(self._find)
        except InvalidToken as error:
            raise self.refused_token(exchange, error.reason) from None
        if presented is None:
            return None
        exchange.challenge = self.challenge
        claimed = self._tokens.known(presented.digest)
        return claimed if claimed is not None else self._ask(exchange, presented)

    async def _ask(self, exchange: Exchange, presented: Presented) -> Claimed:
        try:
            return await self._tokens.ask(presented)
        except InvalidToken as error:
            raise self.refused_token(exchange, error.reason) from None

    def _in_fields(self, headers: Headers) -> Presented | None:
        """Raises InvalidToken for what cannot be one."""
        try:
            token = credentials_of(headers.getall("authorization"), "bearer")
        except ValueError:
            raise InvalidToken("several tokens") from None
        if token is None or token.startswith(PREFIX):
            return None
        if len(token) > self.config.max_size or not _TOKEN.fullmatch(token):
            raise InvalidToken("malformed")
        if not self.config.forward:
            del headers["authorization"]
        return self._tokens.presented(token)
