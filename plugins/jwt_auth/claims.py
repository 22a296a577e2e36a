"""What a token's claims must be for it to be valid now (RFC 7519 §4.1), and the consumer that they describe."""

from __future__ import annotations

from typing import NamedTuple

from gateway.claims import LONGEST_TEXT, ClaimMapping, Claims, Revocable, is_for, moment_of, steps_of
from gateway.credentials import InvalidToken
from gateway.directory.claimed import Claimed
from gateway.json_path import value_at
from plugins.jwt_auth.options import Config


class Caller(NamedTuple):
    """Who a token says it is, and what it can be revoked by."""

    claimed: Claimed
    revocable: Revocable


class ClaimRules:
    """Whether claims are valid at a moment."""

    def __init__(self, config: Config) -> None:
        self._issuers = _set(config.issuers())
        self._audiences = _set(config.audiences())
        self._leeway = config.leeway
        self._require_expiry = config.require_expiry
        self._max_lifetime = config.max_lifetime
        self._required = [steps_of(path) for path in config.required]

    def check(self, claims: Claims, now: float) -> float | None:
        """When the claims end, in seconds since the epoch with the leeway added; None for never.

        Raises InvalidToken.
        """
        try:
            self._check_names(claims)
            return self._check_times(claims, now)
        except ValueError:
            raise InvalidToken("claims") from None

    def _check_names(self, claims: Claims) -> None:
        for name in ("iss", "sub", "jti"):
            if name in claims and not (isinstance(claims[name], str) and len(claims[name]) <= LONGEST_TEXT):
                raise InvalidToken("claims")
        if self._issuers is not None and claims.get("iss") not in self._issuers:
            raise InvalidToken("another issuer")
        if not is_for(claims, self._audiences):
            raise InvalidToken("another audience")
        if not all(value_at(claims, steps) is not None for steps in self._required):
            raise InvalidToken("claims")

    def _check_times(self, claims: Claims, now: float) -> float | None:
        expires, begins, issued = (moment_of(claims, name) for name in ("exp", "nbf", "iat"))
        if expires is None and self._require_expiry:
            raise InvalidToken("claims")
        if expires is not None and now >= expires + self._leeway:
            raise InvalidToken("expired")
        if begins is not None and now < begins - self._leeway:
            raise InvalidToken("not valid yet")
        if issued is not None and now < issued - self._leeway:
            raise InvalidToken("not valid yet")
        if self._max_lifetime is not None and (
            expires is None or issued is None or expires - issued > self._max_lifetime
        ):
            raise InvalidToken("lifetime")
        return None if expires is None else expires + self._leeway


def caller_of(claims: Claims, mapping: ClaimMapping) -> Caller:
    """Who the claims describe. Raises InvalidToken for claims that cannot stand where they are to go."""
    try:
        return Caller(mapping.claimed(claims), mapping.revocable(claims))
    except ValueError:
        raise InvalidToken("claims") from None


def _set(texts: list[str] | None) -> frozenset[str] | None:
    return None if texts is None else frozenset(texts)
