"""What a token's claims must be for it to be valid now (RFC 7519 §4.1), and the consumer that they describe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from gateway.consumers import Consumer
from plugins.jwt_auth.compact import InvalidToken
from plugins.jwt_auth.options import ClaimPaths, Config, Steps, steps_of

Claims: TypeAlias = Mapping[str, Any]

_LATEST: Final = 253402300800  # the end of the year 9999; what is beyond was not meant as seconds
_LONGEST_TEXT: Final = 256
_MOST_WORDS: Final = 500
_NAMES: Final = (str, int)
_FACTS: Final = (str, int, float, bool)
_SUBSCRIPTION: Final = re.compile(r"[!-~]{0,128}")


class Caller(NamedTuple):
    """Who a token says it is. `revocable` is what can be revoked before it expires: (`jti`, id), and `session` and
    `subject` likewise.
    """

    consumer: Consumer
    revocable: tuple[tuple[str, str], ...]


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
        for name in ("iss", "sub", "jti"):
            if name in claims and not (isinstance(claims[name], str) and len(claims[name]) <= _LONGEST_TEXT):
                raise InvalidToken(f"`{name}` is not a text of reasonable length")
        if self._issuers is not None and claims.get("iss") not in self._issuers:
            raise InvalidToken("another issuer")
        self._check_audience(claims)
        if not all(_at(claims, steps) is not None for steps in self._required):
            raise InvalidToken("a claim that is required is missing")
        return self._check_times(claims, now)

    def _check_audience(self, claims: Claims) -> None:
        audience = claims.get("aud", [])
        audience = [audience] if isinstance(audience, str) else audience
        if not isinstance(audience, list) or not all(isinstance(each, str) for each in audience):
            raise InvalidToken("`aud` is neither text nor a list of texts")
        if self._audiences is not None and self._audiences.isdisjoint(audience):
            raise InvalidToken("another audience")

    def _check_times(self, claims: Claims, now: float) -> float | None:
        expires, begins, issued = (_moment(claims, name) for name in ("exp", "nbf", "iat"))
        if expires is None and self._require_expiry:
            raise InvalidToken("no `exp`")
        if expires is not None and now >= expires + self._leeway:
            raise InvalidToken("expired")
        if begins is not None and now < begins - self._leeway:
            raise InvalidToken("not valid yet")
        if issued is not None and now < issued - self._leeway:
            raise InvalidToken("issued in the future")
        if self._max_lifetime is not None and (
            expires is None or issued is None or expires - issued > self._max_lifetime
        ):
            raise InvalidToken("valid for longer than is allowed")
        return None if expires is None else expires + self._leeway


class ClaimMapping:
    """Makes a consumer of claims, by the paths that the configuration names."""

    def __init__(self, config: Config) -> None:
        claims = config.claims
        self._organization = _all(claims.organization)
        self._name = _all(claims.name)
        self._user = _all(claims.user)
        self._subscription = _all(claims.subscription)
        self._session = _all(claims.session)
        self._roles = _all(claims.roles)
        self._scopes = _all(claims.scopes)
        self._permissions = _all(claims.permissions)
        self._attributes = {name: [steps_of(path)] for name, path in claims.attributes.items()}

    def caller(self, claims: Claims) -> Caller:
        """Who the claims describe. Raises InvalidToken for claims that cannot stand where they are to go."""
        subscription = _text(claims, self._subscription)
        if not _SUBSCRIPTION.fullmatch(subscription):
            raise InvalidToken("a subscription that cannot be written down")
        attributes = {name: _text(claims, paths, _FACTS) for name, paths in self._attributes.items()}
        try:
            consumer = Consumer(
                _text(claims, self._name),
                _text(claims, self._organization),
                subscription,
                user=_text(claims, self._user),
                roles=frozenset(_words(claims, self._roles)),
                scopes=frozenset(_words(claims, self._scopes, apart=True)),
                permissions=tuple(_words(claims, self._permissions, apart=True)),
                attributes={name: text for name, text in attributes.items() if text},
            )
        except ValueError:
            raise InvalidToken("a name or an organization that is missing or cannot be written down") from None
        named = {"jti": claims.get("jti"), "session": _text(claims, self._session), "subject": claims.get("sub")}
        return Caller(consumer, tuple((kind, text) for kind, text in named.items() if text))


def _set(texts: list[str] | None) -> frozenset[str] | None:
    return None if texts is None else frozenset(texts)


def _all(paths: ClaimPaths) -> list[Steps]:
    return [steps_of(path) for path in ([paths] if isinstance(paths, str) else paths)]


def _at(claims: Claims, steps: Steps) -> Any:
    """What stands at the end of a path; None where it does not lead anywhere."""
    value: Any = claims
    for step in steps:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def _moment(claims: Claims, name: str) -> float | None:
    """A NumericDate: seconds since the epoch (RFC 7519 §2). Raises InvalidToken for anything else."""
    if name not in claims:
        return None
    moment = claims[name]
    if isinstance(moment, bool) or not isinstance(moment, int | float) or not 0 <= moment < _LATEST:
        raise InvalidToken(f"`{name}` is not a moment in seconds")
    return float(moment)


def _text(claims: Claims, paths: list[Steps], kinds: tuple[type, ...] = _NAMES) -> str:
    """The first of these claims that is there and not empty; nothing if none is.

    Raises InvalidToken for one of another kind.
    """
    value = next((found for steps in paths if (found := _at(claims, steps)) not in (None, "")), "")
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if type(value) not in kinds or len(text) > _LONGEST_TEXT:
        raise InvalidToken("a claim that is not a text of reasonable length")
    return text


def _words(claims: Claims, paths: list[Steps], *, apart: bool = False) -> list[str]:
    """All words of these claims, each once. A text is one word or, if `apart`, several. Raises InvalidToken."""
    words: list[str] = []
    for steps in paths:
        found = _at(claims, steps)
        if isinstance(found, str):
            words += found.split() if apart else [found]
        elif isinstance(found, list) and all(isinstance(word, str) for word in found):
            words += found
        elif found is not None:
            raise InvalidToken("a claim that is neither text nor a list of texts")
    if len(words) > _MOST_WORDS or any(len(word) > _LONGEST_TEXT for word in words):
        raise InvalidToken("a claim with too many words, or too long ones")
    return list(dict.fromkeys(words))
