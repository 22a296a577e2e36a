"""Know the consumer by a token that an issuer signed: a JWT (RFC 7519) in a JWS (RFC 7515)."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Literal

from gateway.authentication import Authenticator, Found, NotOurs
from gateway.cookie import without_cookie
from gateway.credentials import InvalidToken, credentials_of, in_target, the_only
from gateway.directory.claimed import Claimed
from gateway.exchange import Exchange
from gateway.headers import Headers
from gateway.services import Services
from plugins.jwt_auth.compact import Presented, looks_like_token
from plugins.jwt_auth.issuer_keys import IssuerKeys
from plugins.jwt_auth.options import Config
from plugins.jwt_auth.verifier import Verifier

__all__ = ["Config", "JwtAuth"]


class JwtAuth(Authenticator[Config]):
    """Refuses with 401 and never says why; the access log and `tallygate_tokens_refused_total` do. What is no JWT, such
    as an API key, is left for other authenticators, and in `any_of` what only looks like one, such as a token that is
    encrypted. While nobody can tell whether a token is valid, because its issuer's keys could not be fetched, it is
    answered with 503. In `any_of`, a token whose `iss` is another one is left for the other `jwt_auth` in the list: one
    for each issuer.

    Tokens are read as strictly as RFC 8725 advises: one whose header has `crit`, `jku`, `jwk`, `x5u`, `x5c`, `b64`,
    `zip` or `enc`, or that holds another token, is refused; all other members are ignored (RFC 7515 §4), `x5t` among
    them. The paths of claims make tokens of Supabase, Auth0, Keycloak and Entra work; each has an example.
    """

    asks_for_secrets = True

    @classmethod
    def bearers(cls, config: Config) -> Literal["none", "some"]:
        return "some" if config.bearer else "none"

    @classmethod
    def in_authorization(cls, config: Config) -> str | None:
        elsewhere = (config.header, config.cookie, config.query)
        return "bearer" if config.bearer and elsewhere == (None, None, None) else None

    def __init__(self, config: Config, services: Services) -> None:
        super().__init__(config, services)
        self._header = config.header.lower() if config.header is not None else None
        self._cookie = config.cookie
        self._query = config.query
        self._forward = config.forward
        self._find = self._in_fields  # bound once: `Headers.once` knows it again
        self.challenge = f'Bearer realm="{config.realm}"'
        key = ("jwt_auth", config.model_dump_json())
        self._verifier = services.joint(key, lambda: Verifier(config, services, self._issuer_keys()))
        self._claimed = self._verifier.claimed

    def _issuer_keys(self) -> IssuerKeys | None:
        """The keys that the issuer publishes; one for all plugins that fetch the same in the same way."""
        config, keys, services = self.config, self.config.keys, self.services
        if not keys.fetched:
            return None
        issuer = config.issuer if keys.discovery and isinstance(config.issuer, str) else ""
        algorithms = frozenset(config.algorithms)
        how = (keys.model_dump_json(exclude={"static"}), issuer, algorithms)
        return services.joint(("jwt_auth keys", *how), lambda: IssuerKeys(keys, issuer, algorithms, services))

    def inherit(self, previous: JwtAuth) -> None:
        self._verifier.inherit(previous._verifier)

    async def start(self) -> None:
        await self._verifier.start()

    async def stop(self) -> None:
        self._verifier.stop()

    def authenticate(self, exchange: Exchange) -> Found:
        request = exchange.request
        try:
            presented = request.headers.once(self._find)
            if self._query is not None and "?" in request.target:
                presented = in_target(request, self._query, presented, self._in_values, self._stays)
        except ValueError:
            raise self.refused_token(exchange, "several tokens") from None
        if presented is None:
            return None
        if presented.foreign is not None:
            return NotOurs(self, presented.foreign)
        exchange.challenge = self.challenge
        try:
            found = self._claimed(presented)
        except InvalidToken as error:
            raise self.refused_token(exchange, error.reason) from None
        return found if isinstance(found, Claimed) else self._waited(exchange, found)

    async def _waited(self, exchange: Exchange, found: Awaitable[Claimed]) -> Claimed:
        try:
            return await found
        except InvalidToken as error:
            raise self.refused_token(exchange, error.reason) from None

    def _in_fields(self, headers: Headers) -> Presented | None:
        """The one token in the header fields, which is taken out of them unless it is foreign, or to be forwarded.

        Raises ValueError for several.
        """
        said = credentials_of(headers.getall("authorization"), "bearer") if self.config.bearer else None
        bearers = _tokens([said]) if said is not None else []
        in_field = _tokens(headers.getall(self._header)) if self._header is not None else []
        in_cookies = _tokens(_cookies(headers, self._cookie)[1]) if self._cookie is not None else []
        presented = self._only([*bearers, *in_field, *in_cookies])
        if presented is None or self._forward or presented.foreign is not None:
            return presented
        if bearers:
            del headers["authorization"]
        if in_field and self._header is not None:
            del headers[self._header]
        if in_cookies and self._cookie is not None:
            kept, _ = _cookies(headers, self._cookie)
            del headers["cookie"]
            if kept:
                headers.add("Cookie", kept)
        return presented

    def _in_values(self, values: list[str]) -> Presented | None:
        """The one token among the values of a parameter. Raises ValueError for different ones."""
        return self._only(_tokens(values))

    def _only(self, tokens: list[str]) -> Presented | None:
        """The one among them, however often. Raises ValueError for different ones."""
        token = the_only(tokens)
        if token is None:
            return None
        presented = Presented.of(token)
        foreign = self._verifier.leaves(presented)
        return presented if foreign is None else presented._replace(foreign=foreign)

    def _stays(self, presented: Presented) -> bool:
        return self._forward or presented.foreign is not None


def _cookies(headers: Headers, name: str) -> tuple[str, list[str]]:
    """The field Cookie without those of this name, and their values."""
    return without_cookie("; ".join(headers.getall("cookie")), name)


def _tokens(credentials: list[str]) -> list[str]:
    return [text for text in credentials if looks_like_token(text)]
