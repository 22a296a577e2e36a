"""Tokens: what is known about tokens, and asking about those of which nothing is."""

from __future__ import annotations

import os
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from gateway.claims import ClaimMapping, OneOrMore, Revocable, is_for, moment_of
from gateway.credentials import InvalidToken, Reason
from gateway.directory.claimed import Claimed
from gateway.expiring import Expiring
from gateway.metrics import GaugePart
from gateway.problem import IssuerDown, Overloaded
from gateway.services import Services
from gateway.single_flight import SingleFlight
from plugins.introspection.endpoint import Endpoint
from plugins.introspection.options import Config

_BEARERS: Final = frozenset({"bearer", "access_token"})
"""What servers call the `token_type` of a token that whoever holds it may use."""


class Presented(NamedTuple):
    """A token, and a digest of it that tells nothing without this process's key."""

    token: str
    digest: bytes


class _Known(NamedTuple):
    """Who holds a token, what it can be revoked by, and until when the issuer need not be asked again (seconds of the
    monotonic clock).
    """

    claimed: Claimed
    revocable: Revocable
    fresh_until: float


class Tokens:
    """Shared by all plugins that ask the same endpoint in the same way."""

    def __init__(self, config: Config, services: Services) -> None:
        self._config = config
        self._clock = services.clock
        self._key = os.urandom(32)
        self._mapping = ClaimMapping(config.claims)
        self._is_revoked = services.directory.is_revoked
        self._issuers = _set(config.issuer)
        self._audiences = _set(config.audience)
        now = services.clock.monotonic
        self._endpoint = Endpoint(
            config.upstream,
            config.path,
            (config.client_id, config.client_secret),
            config.client_authentication,
            within_seconds=config.timeout,
            forward=services.forward,
            now=now,
            metrics=services.metrics,
        )
        sizes = services.metrics.gauge(
            "tallygate_introspection_remembered", "Tokens remembered, by whether they are active.", ("state",)
        )
        most = config.cache.max_tokens
        self._active: Expiring[_Known] = Expiring(most, now, GaugePart(sizes.labels("active")))
        self._inactive: Expiring[Reason] = Expiring(most, now, GaugePart(sizes.labels("inactive")))
        self._questions: SingleFlight[Claimed] = SingleFlight(
            "introspection", services.background, config.max_in_flight
        )

    def inherit(self, previous: Tokens) -> None:
        """Go on with what is known."""
        self._key, self._active, self._inactive = previous._key, previous._active, previous._inactive

    def retain(self) -> None:
        self._active.retain()
        self._inactive.retain()

    def release(self) -> None:
        self._active.release()
        self._inactive.release()

    def presented(self, token: str) -> Presented:
        """A token, made ready."""
        return Presented(token, blake2b(token.encode(), key=self._key, digest_size=32).digest())

    def known(self, digest: bytes) -> Claimed | None:
        """Who holds the token, if that need not be asked."""
        known = self._held(digest)
        return known.claimed if known is not None and self._clock.monotonic() < known.fresh_until else None

    def _held(self, digest: bytes) -> _Known | None:
        """What is remembered of a token that has not been revoked since."""
        known = self._active.get(digest)
        if known is None or not self._revoked(known.revocable):
            return known
        self._active.drop(digest)
        return None

    def _revoked(self, revocable: Revocable) -> bool:
        return any(self._is_revoked(kind, text) for kind, text in revocable)

    async def ask(self, presented: Presented) -> Claimed:
        """Who holds the token. Raises InvalidToken, IssuerDown, and Overloaded."""
        reason = self._inactive.get(presented.digest)
        if reason is not None:
            raise InvalidToken(reason)
        try:
            return await self._questions.join(presented.digest, lambda: self._ask(presented))
        except (IssuerDown, Overloaded):  # a flood of invented tokens keeps out nobody who is known
            stale = self._held(presented.digest)
            if stale is None:
                raise
            return stale.claimed

    async def _ask(self, presented: Presented) -> Claimed:
        answer = await self._endpoint.ask(presented.token)
        now, cache = self._clock.nanos() / 1e9, self._config.cache
        try:
            claimed, revocable, expires = self._read(answer, now)
        except InvalidToken as error:
            self._active.drop(presented.digest)
            self._inactive.put(presented.digest, error.reason, cache.inactive)
            raise
        left = float("inf") if expires is None else expires - now
        known = _Known(claimed, revocable, self._clock.monotonic() + min(cache.active, left))
        self._active.put(presented.digest, known, min(cache.active + cache.max_staleness, left))
        return claimed

    def _read(self, answer: dict[str, Any], now: float) -> tuple[Claimed, Revocable, float | None]:
        """Who the answer is about, what its token can be revoked by, and when that ends. Raises InvalidToken."""
        if not answer["active"]:
            raise InvalidToken("not active")
        try:
            expires = self._check(answer, now)
            revocable, claimed = self._mapping.revocable(answer), self._mapping.claimed(answer)
        except ValueError:
            raise InvalidToken("claims") from None
        if self._revoked(revocable):  # here, whatever its issuer says
            raise InvalidToken("revoked")
        return claimed, revocable, expires

    def _check(self, answer: dict[str, Any], now: float) -> float | None:
        """When an active token ends, if it is for us. Raises InvalidToken, and ValueError for what makes no sense."""
        if answer.get("cnf") is not None:
            raise InvalidToken("bound to a key")
        kind = answer.get("token_type", "bearer")
        if not isinstance(kind, str) or kind.lower() not in _BEARERS:
            raise InvalidToken("another type")
        expires, begins = moment_of(answer, "exp"), moment_of(answer, "nbf")
        if expires is not None and expires <= now:
            raise InvalidToken("expired")
        if begins is not None and begins > now:
            raise InvalidToken("not valid yet")
        issuer = answer.get("iss")
        if self._issuers is not None and (not isinstance(issuer, str) or issuer not in self._issuers):
            raise InvalidToken("another issuer")
        if not is_for(answer, self._audiences):
            raise InvalidToken("another audience")
        return expires


def _set(texts: OneOrMore | None) -> frozenset[str] | None:
    return None if texts is None else frozenset([texts] if isinstance(texts, str) else texts)
