"""A token as it came: three parts (RFC 7515 §7.1), read more strictly than libraries do, before a key is looked for.

Libraries let pass what another reader may take for something else; the rules of RFC 8725 are kept here instead.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from hashlib import sha256
from typing import Any, Final, NamedTuple

from gateway.credentials import InvalidToken, Reason
from plugins.jwt_auth.strict_json import read_object

LONGEST_KID: Final = 256
"""Characters in the name of a key."""

_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]+")
# A token that names its own key (RFC 7515 §4.1.2-6), wants something understood that we do not (§4.1.11, RFC 7797), is
# compressed or encrypted. All other members may be ignored (RFC 7515 §4), among them `x5t` and `x5t#S256`: hints.
_NOT_TAKEN: Final = frozenset({"jku", "jwk", "x5u", "x5c", "crit", "b64", "zip", "enc"})
_MEDIA: Final = "application/"


class Presented(NamedTuple):
    """A token as a request brought it, and its SHA-256, made once for requests that repeat it. `foreign` says why it is
    for others to judge, if it is.
    """

    text: str
    digest: bytes
    foreign: Reason | None = None

    @classmethod
    def of(cls, text: str) -> Presented:
        """A token as the text of a header field or a target, which is latin-1."""
        return cls(text, sha256(text.encode("latin-1")).digest())


class Token(NamedTuple):
    """A token that nobody has vouched for yet: `signed` is what `signature` is of."""

    algorithm: str
    kid: str | None
    claims: dict[str, Any]
    signed: bytes
    signature: bytes


def looks_like_token(text: str) -> bool:
    """Whether a credential is meant to be a JWT, valid or not: it has three parts, or begins as a JSON object does."""
    return text.count(".") == 2 or text.startswith("eyJ")


def decode_part(text: str) -> bytes:
    """Base64url as RFC 7515 §2 wants it: no padding, nothing in between, no bits left over. Raises ValueError."""
    if not _BASE64URL.fullmatch(text):
        raise ValueError("not base64url")
    decoded = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if urlsafe_b64encode(decoded).rstrip(b"=") != text.encode("ascii"):
        raise ValueError("base64url with bits left over")
    return decoded


class TokenReader:
    """Reads tokens. `algorithms` are those that are allowed, `types` the values of `typ`; `longest` in characters."""

    def __init__(self, algorithms: Iterable[str], types: Iterable[str], longest: int) -> None:
        self._algorithms = frozenset(algorithms)
        self._types = frozenset(kind.lower() for kind in types)
        self._longest = longest

    def read(self, text: str) -> Token:
        """The parts of a token, its header checked. Raises InvalidToken."""
        if len(text) > self._longest:
            raise InvalidToken("malformed")
        parts = text.split(".")
        if len(parts) != 3:
            raise InvalidToken("malformed")
        try:
            raw_header, raw_claims, signature = map(decode_part, parts)
            header, claims = read_object(raw_header), read_object(raw_claims)
        except ValueError:
            raise InvalidToken("malformed") from None
        algorithm = header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise InvalidToken("algorithm")
        self._check(header)
        return Token(algorithm, _kid(header), claims, text[: text.rindex(".")].encode("ascii"), signature)

    def _check(self, header: dict[str, Any]) -> None:
        if not _NOT_TAKEN.isdisjoint(header):
            raise InvalidToken("header")
        kind = _media_type(header, "typ")
        if (kind if kind is not None else "jwt") not in self._types:
            raise InvalidToken("another type")
        if _media_type(header, "cty") == "jwt":
            raise InvalidToken("another type")


def _kid(header: dict[str, Any]) -> str | None:
    kid = header.get("kid")
    if "kid" in header and not (isinstance(kid, str) and 0 < len(kid) <= LONGEST_KID):
        raise InvalidToken("header")
    return kid


def _media_type(header: dict[str, Any], name: str) -> str | None:
    """`typ` or `cty` in small letters, without the `application/` that may be left out (RFC 7515 §4.1.9)."""
    if name not in header:
        return None
    value = header[name]
    if not isinstance(value, str):
        raise InvalidToken("header")
    return value.lower().removeprefix(_MEDIA)
