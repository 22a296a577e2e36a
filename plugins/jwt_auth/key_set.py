"""A set of keys: which of them may have signed a token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from plugins.jwt_auth.compact import Token
from plugins.jwt_auth.key import Key
from plugins.jwt_auth.key_reading import UnusableKey, key_from_jwk
from plugins.jwt_auth.strict_json import read_object

MOST_KEYS: Final = 100
"""In one document; issuers have two or three."""
MOST_TRIED: Final = 4
"""Keys that one token is tried with; a token that names its key is tried with those of that name."""


class KeySet:
    """Keys by their kid. Several may share one: RFC 7517 §4.5 wants them of different types, and no order is meant."""

    def __init__(self, keys: Iterable[Key] = (), passed_over: Sequence[str] = ()) -> None:
        """`passed_over` is what was published beside them, and why each is of no use."""
        self.passed_over = tuple(passed_over)
        self._all = tuple(dict.fromkeys(keys))
        self._nameless = [key for key in self._all if key.id is None]
        self._named: dict[str, list[Key]] = {}
        for key in self._all:
            if key.id is not None:
                self._named.setdefault(key.id, []).append(key)

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, key: Key) -> bool:
        return key in self._all

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeySet) and self._all == other._all

    def __hash__(self) -> int:
        return hash(self._all)

    def names(self, kid: str | None) -> bool:
        """Whether a key of this set has this kid."""
        return kid in self._named

    def signer(self, token: Token) -> Key | None:
        """The key that signed a token: of those that it names, or of those without a name if it names none of ours.
        A token without kid may be of any. At most MOST_TRIED that are for its algorithm are tried.
        """
        keys = self._all if token.kid is None else self._named.get(token.kid, self._nameless)
        suited = [key for key in keys if token.algorithm in key.signatures]
        for key in suited[:MOST_TRIED]:
            if key.verifies(token.algorithm, token.signed, token.signature):
                return key
        return None


def read_key_set(document: bytes, allowed: frozenset[str]) -> KeySet:
    """The usable keys of a JWK set (RFC 7517 §5); the others are passed over (§5).

    Raises ValueError for what is no JWK set, one of more than MOST_KEYS, and one without a usable key: an issuer signs
    with something, so that one is broken, and what was known before counts on.
    """
    keys = read_object(document).get("keys")
    if not isinstance(keys, list) or len(keys) > MOST_KEYS:
        raise ValueError(f"not a JWK set of at most {MOST_KEYS} keys")
    usable: list[Key] = []
    passed_over: list[str] = []
    for place, jwk in enumerate(keys):
        try:
            if not isinstance(jwk, dict):
                raise UnusableKey("it is no object")
            usable.append(key_from_jwk(jwk, allowed))
        except UnusableKey as error:
            passed_over.append(f"key {place}: {error}")
    if not usable:
        raise ValueError("no key that can be used for the algorithms allowed")
    return KeySet(usable, passed_over)
