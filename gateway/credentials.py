"""Credentials: how they are read from where callers show them, and why one is not taken.

Readers of the same request must not come to two different ones; what could be read in two ways is none at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, TypeVar

from gateway.exchange import Request
from gateway.path import without_parameter

T = TypeVar("T")

Reason: TypeAlias = Literal[
    "algorithm",
    "another audience",
    "another issuer",
    "another type",
    "bound to a key",
    "claims",
    "expired",
    "header",
    "lifetime",
    "malformed",
    "not active",
    "not valid yet",
    "organization",
    "revoked",
    "several tokens",
    "signature",
    "unknown key",
]
"""Why a token is refused: for metrics and the access log, and never for whoever showed it."""


class InvalidToken(Exception):
    """A token is not valid."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


def credentials_of(fields: Sequence[str], scheme: str) -> str | None:
    """What the fields Authorization say in this scheme, in lower case; None where they say nothing, or speak in
    another.

    Raises ValueError for several such fields.
    """
    if not fields:
        return None
    if len(fields) > 1:
        raise ValueError("more than one field Authorization")
    said, _, credentials = fields[0].partition(" ")
    return credentials.strip(" ") if said.lower() == scheme else None


def the_only(found: Sequence[str]) -> str | None:
    """The one credential among them, however often; None if there is none. Raises ValueError for different ones."""
    if not found:
        return None
    first = found[0]
    if len(found) > 1 and any(other != first for other in found):
        raise ValueError("several credentials")
    return first


def in_target(
    request: Request, name: str, in_fields: T | None, read: Callable[[list[str]], T | None], stays: Callable[[T], bool]
) -> T | None:
    """The credential in the query parameter `name`, which is taken out unless it `stays`; else the one `in_fields`.

    Raises ValueError where these are two, and what `read` raises.
    """
    target, values = without_parameter(request.target, name)
    found = read(values)
    if found is None:
        return in_fields
    if in_fields is not None and found != in_fields:
        raise ValueError("one credential in the fields, and another one in the target")
    if not stays(found):
        request.target = target
    return found
