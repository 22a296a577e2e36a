"""Know the consumer by a token that an issuer signed: a JWT (RFC 7519) in a JWS (RFC 7515)."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import NoReturn

from gateway.authentication import Authenticator, Found, NotOurs
from gateway.consumers import Consumer
from gateway.cookie import without_cookie
from gateway.exchange import Exchange, Request
from gateway.headers import Headers
from gateway.path import without_parameter
from gateway.problem import Unauthorized
from gateway.services import Services
from plugins.jwt_auth.compact import InvalidToken, Presented, looks_like_token
from plugins.jwt_auth.issuer_keys import IssuerKeys
from plugins.jwt_auth.options import Config
from plugins.jwt_auth.verifier import Verifier

__all__ = ["Config", "JwtAuth"]


class JwtAuth(Authenticator[Config]):
    """Refuses with 401 and never says why. What is no JWT, such as an API key, is left for other authenticators. While
    nobody can tell whether a token is valid, because its issuer's keys could not be fetched, it is answered with 503.
    In `any_of`, a token whose `iss` is another one is left for the other `jwt_auth` in the list: one for each issuer.

    Tokens are read as strictly as RFC 8725 advises: one whose header has `crit`, `jku`, `jwk`, `x5u`, `x5c`, `b64`,
    `zip` or `enc`, or that holds another token, is refused; all other members are ignored (RFC 7515 §4), `x5t` among
    them. The paths of claims make tokens of Supabase, Auth0, Keycloak and Entra work; each has an example.
    """

    asks_for_secrets = True

    def __init__(self, config: Config, services: Services) -> None:
        super().__init__(config, services)
        self._header = config.header.lower() if config.header is not None else None
        self._cookie = config.cookie
        self._query = config.query
        self._forward = config.forward
        self._find = self._in_fields  # bound once: `Headers.once` knows it again
        self.challenge = f'Bearer realm="{config.realm}"'
        self._invalid = f'{self.challenge}, error="invalid_token"'
        self._left = NotOurs(self._invalid)
        key = ("jwt_auth", config.model_dump_json())
        self._verifier = services.joint(key, lambda: Verifier(config, services, self._issuer_keys()))
        self._consumer = self._verifier.consumer

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
                presented = self._in_target(request, self._query, presented)
            if presented is None:
                return None
            if presented.foreign:
                return self._left
            found = self._consumer(presented)
        except InvalidToken:
            self._refuse()
        exchange.challenge = self.challenge
        return found if isinstance(found, Consumer) else self._waited(found)

    async def _waited(self, found: Awaitable[Consumer]) -> Consumer:
        try:
            return await found
        except InvalidToken:
            self._refuse()

    def _refuse(self) -> NoReturn:
        """A token that is not valid, whatever is wrong with it (RFC 6750 §3.1)."""
        raise Unauthorized(headers={"www-authenticate": self._invalid}) from None

    def _in_fields(self, headers: Headers) -> Presented | None:
        """The one token in the header fields, which is taken out of them unless it is foreign, or to be forwarded."""
        bearers = _in_authorization(headers) if self.config.bearer else []
        in_field = _tokens(headers.getall(self._header)) if self._header is not None else []
        in_cookies = _tokens(_cookies(headers, self._cookie)[1]) if self._cookie is not None else []
        presented = self._only([*bearers, *in_field, *in_cookies])
        if presented is None or presented.foreign or self._forward:
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

    def _in_target(self, request: Request, name: str, in_fields: Presented | None) -> Presented | None:
        target, values = without_parameter(request.target, name)
        presented = self._only(_tokens(values))
        if presented is None:
            return in_fields
        if in_fields is not None and presented != in_fields:
            raise InvalidToken("two tokens")
        if not (presented.foreign or self._forward):
            request.target = target
        return presented

    def _only(self, tokens: list[str]) -> Presented | None:
        """The one token among them, however often. Raises InvalidToken for different ones."""
        if not tokens:
            return None
        if len(tokens) > 1 and len(set(tokens)) > 1:
            raise InvalidToken("several tokens")
        presented = Presented.of(tokens[0])
        return presented._replace(foreign=True) if self._verifier.leaves(presented) else presented


def _in_authorization(headers: Headers) -> list[str]:
    """The token that Authorization says to bearers. Raises InvalidToken for several such fields."""
    fields = headers.getall("authorization")
    if len(fields) > 1:
        raise InvalidToken("several fields Authorization")
    scheme, _, credentials = fields[0].partition(" ") if fields else ("", "", "")
    return _tokens([credentials.strip(" ")]) if scheme.lower() == "bearer" else []


def _cookies(headers: Headers, name: str) -> tuple[str, list[str]]:
    """The field Cookie without those of this name, and their values."""
    return without_cookie("; ".join(headers.getall("cookie")), name)


def _tokens(credentials: list[str]) -> list[str]:
    return [text for text in credentials if looks_like_token(text)]
