"""API keys: how they are made, and how a mistyped one is told from an unknown one without asking anybody.

A key is `tg_live_` or `tg_test_`, 32 random characters of 0-9A-Za-z (190 bits), and 6 characters of checksum: the
CRC-32 of all before, in the same 62 digits. The checksum guards against typing errors and lets secret scanners be
sure; it is no proof of anything. Only the SHA-256 of a key is ever stored.
"""

from __future__ import annotations

import secrets
import string
from hashlib import sha256
from typing import Final, Literal
from zlib import crc32

Mode = Literal["live", "test"]

_DIGITS: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_PAIRS: Final = tuple(high + low for high in _DIGITS for low in _DIGITS)
PREFIX: Final = "tg_"
"""What every key of ours begins with."""
_PREFIXES: Final = ("tg_live_", "tg_test_")
_RANDOM: Final = 32  # characters
_BODY: Final = 8 + _RANDOM
LONGEST_KEY: Final = 256
"""Characters of a key that is looked for; one that we have made is shorter."""
_LENGTH: Final = _BODY + 6


def new_key(mode: Mode) -> str:
    """A fresh key for production (`live`) or for trying things out (`test`)."""
    body = f"tg_{mode}_" + "".join(secrets.choice(_DIGITS) for _ in range(_RANDOM))
    return body + _checksum(body)


def looks_valid(key: str) -> bool:
    """Whether the form and the checksum are right. Says nothing about who may use the key."""
    if len(key) != _LENGTH or not key.isascii() or not key.startswith(_PREFIXES):
        return False
    return key[_BODY:] == _checksum(key[:_BODY])


def digest(key: str) -> bytes:
    """SHA-256 of a key, the only form in which it is kept. Raises UnicodeEncodeError for what cannot be UTF-8."""
    return sha256(key.encode()).digest()


def _checksum(body: str) -> str:
    """CRC-32 as six digits to the base 62, the most significant first."""
    number = crc32(body.encode())
    return _PAIRS[number // 3844**2] + _PAIRS[number // 3844 % 3844] + _PAIRS[number % 3844]
