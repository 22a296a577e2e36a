"""Passwords: kept as Argon2id hashes (RFC 9106), written as PHC strings; what it costs to check one has bounds.

A hash costs tens of milliseconds and megabytes on purpose. Check it in a thread: meanwhile OpenSSL lets others run.
"""

from __future__ import annotations

import os
import re
from base64 import b64decode, b64encode
from typing import Final
from unicodedata import normalize

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

_PHC: Final = re.compile(
    r"(\$argon2id\$v=19\$m=([1-9]\d{0,6}),t=([1-9]\d{0,2}),p=([1-9]\d?)\$)([A-Za-z0-9+/]{11,64})\$([A-Za-z0-9+/]{22,86})"
)
# What OWASP's cheat sheet asks for at the least is any of 7 MiB five times to 46 MiB once: 35 MiB gone through in all.
_LEAST_MEMORY: Final = 7 * 1024  # KiB, as in the hash
_LEAST_WORK: Final = 35 * 1024  # memory times iterations
_MOST_MEMORY: Final = 256 * 1024
_MOST_WORK: Final = 1024 * 1024
_MOST_LANES: Final = 16
_NEW_MEMORY: Final = 19 * 1024
_NEW_ITERATIONS: Final = 2
_NEW: Final = f"$argon2id$v=19$m={_NEW_MEMORY},t={_NEW_ITERATIONS},p=1${'A' * 22}${'A' * 43}"


def hash_password(password: str) -> str:
    """A fresh hash of a password, as a PHC string: about 35 ms of a core, one of OWASP's choices."""
    hashing = Argon2id(salt=os.urandom(16), length=32, iterations=_NEW_ITERATIONS, lanes=1, memory_cost=_NEW_MEMORY)
    return hashing.derive_phc_encoded(prepared(password))


def check_hash(text: str) -> str:
    """The hash, if it is one that can be used. Raises ValueError without repeating it."""
    match = _PHC.fullmatch(text)
    if match is None:
        raise ValueError("not an Argon2id hash: $argon2id$v=19$m=…,t=…,p=…$salt$hash (`tallygate passwords new`)")
    memory, iterations, lanes = int(match[2]), int(match[3]), int(match[4])
    work = memory * iterations
    if memory < _LEAST_MEMORY or work < _LEAST_WORK:
        raise ValueError("this hash is too cheap to guess: m of at least 7168, and m times t of at least 35840")
    if memory > _MOST_MEMORY or work > _MOST_WORK or lanes > _MOST_LANES:
        raise ValueError("this hash costs too much: m of at most 262144, m times t of at most 1048576, p of at most 16")
    if not all(map(_is_base64, match.group(5, 6))):
        raise ValueError("not an Argon2id hash: its salt or hash is not valid base64")
    return text


def matches(phc: str, password: bytes) -> bool:
    """Whether this is the password, as `prepared`. Takes as long whether it is or not."""
    try:
        Argon2id.verify_phc_encoded(password, phc)
    except InvalidKey:
        return False
    return True


def decoy(like: str = _NEW) -> str:
    """A hash that costs as much as that one, or as a new one, and that nobody knows the password of."""
    match = _PHC.fullmatch(like)
    if match is None:
        raise ValueError("not an Argon2id hash")
    return f"{match[1]}{match[5]}${'A' * len(match[6])}"


def _is_base64(text: str) -> bool:
    """Without padding, and in the one way there is to write it."""
    try:
        return b64encode(b64decode(text + "=" * (-len(text) % 4), validate=True)).rstrip(b"=") == text.encode()
    except ValueError:
        return False


def prepared(password: str) -> bytes:
    """A password as it is hashed: in Unicode's composed form, so that keyboards agree (RFC 8265 §4.2), in UTF-8."""
    return normalize("NFC", password).encode()
