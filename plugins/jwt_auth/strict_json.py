"""JSON as tokens and key sets must have it: one object in UTF-8, read in one way only.

What two readers could understand differently is refused (RFC 8725 §2.6, §3.7): members that occur twice, other
encodings of Unicode, a byte order mark, NaN and infinities, halves of characters. So is what is nested beyond reason.
"""

from __future__ import annotations

import json
from math import isfinite
from typing import Any, Final

DEEPEST: Final = 32
"""Levels of objects and lists inside each other."""


def read_object(raw: bytes) -> dict[str, Any]:
    """The members of a JSON object (RFC 8259). Raises ValueError, whose text repeats nothing of it."""
    try:
        value = _decode(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except json.JSONDecodeError:
        raise ValueError("not JSON") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    _check(value)
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member occurs twice")
    return members


def _no_constant(_name: str) -> None:
    raise ValueError("not a number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError("a number beyond all bounds")
    return number


def _whole(text: str) -> int:
    if len(text) > 40:
        raise ValueError("a number beyond all bounds")
    return int(text)


_decode: Final = json.JSONDecoder(
    object_pairs_hook=_members, parse_constant=_no_constant, parse_float=_finite, parse_int=_whole
).decode


def _check(value: dict[str, Any]) -> None:
    """Looks at every level. Raises ValueError for too many of them, and for half of a character in a text."""
    level: list[Any] = [value]
    for _ in range(DEEPEST + 1):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner += each
                inner += each.values()
            elif isinstance(each, list):
                inner += each
            elif isinstance(each, str) and not each.isascii() and not _encodable(each):
                raise ValueError("half of a character")
        if not inner:
            return
        level = inner
    raise ValueError("nested too deeply")


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
