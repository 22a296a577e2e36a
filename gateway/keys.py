"""API keys: how they are made, and how a mistyped one is told from an unknown one without asking anybody.

A key is `tg_live_` or `tg_test_`, 32 random characters of 0-9A-Za-z (190 bits), and 6 characters of checksum: the
CRC-32 of all before, in the same 62 digits. The checksum guards against typing errors and lets secret scanners be
sure; it is no proof of anything. Only the SHA-256 of a key is ever stored.
"""

from __future__ import annotations

import hashlib
import secrets
import string
from typing import Final, Literal
from zlib import crc32

Mode = Literal["live", "test"]

_DIGITS: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_PAIRS: Final = tuple(high + low for high in _DIGITS for low in _DIGITS)
_PREFIXES: Final = ("tg_live_", "tg_test_")
_PREFIX_LENGTH: Final = 8
_RANDOM_LENGTH: Final = 32
_BODY_LENGTH: Final = _PREFIX_LENGTH + _RANDOM_LENGTH
_KEY_LENGTH: Final = _BODY_LENGTH + 6


def new_key(mode: Mode) -> str:
    """A fresh key for production (`live`) or for trying things out (`test`)."""
    body = f"tg_{mode}_" + "".join(secrets.choice(_DIGITS) for _ in range(_RANDOM_LENGTH))
    return body + _checksum(body)


def looks_valid(key: str) -> bool:
    """Whether the form and the checksum are right. Says nothing about who may use the key. Costs under 1 µs."""
    if len(key) != _KEY_LENGTH or not key.startswith(_PREFIXES):
        return False
    rest = key[_PREFIX_LENGTH:]
    return rest.isascii() and rest.isalnum() and key[_BODY_LENGTH:] == _checksum(key[:_BODY_LENGTH])


def digest(key: str) -> bytes:
    """SHA-256 of a key, the only form in which it is kept."""
    return hashlib.sha256(key.encode()).digest()


def _checksum(body: str) -> str:
    """CRC-32 as six digits to the base 62, the most significant first; two digits at a time because it is hot."""
    rest, last = divmod(crc32(body.encode()), 3844)
    first, middle = divmod(rest, 3844)
    return _PAIRS[first] + _PAIRS[middle] + _PAIRS[last]
