"""Clock: the only place that asks what time it is, so that tests can turn the hands."""

from __future__ import annotations

import os
import time
from email.utils import formatdate
from typing import Final

_VERSION_AND_VARIANT: Final = 0x7 << 76 | 0x2 << 62
_RANDOM_BITS: Final = (1 << 80) - 1 & ~(0xF << 76 | 0x3 << 62)


class Clock:
    """Wall time, monotonic time and the time-ordered ids made of it."""

    def __init__(self) -> None:
        self._random = b""
        self._place = 0  # of the first byte not used yet
        self._date = b""
        self._date_second = 0

    # Asked several times per request: the function itself, without a method around it.
    monotonic = staticmethod(time.monotonic)
    """Seconds that never run backwards; for durations and deadlines."""

    def micros(self) -> int:
        """Microseconds since the Unix epoch, UTC; for records."""
        return time.time_ns() // 1000

    def http_date(self) -> bytes:
        """Now, as the Date field says it (RFC 9110 §5.6.7)."""
        second = time.time_ns() // 1_000_000_000
        if second != self._date_second:
            self._date_second = second
            self._date = formatdate(second, usegmt=True).encode()
        return self._date

    def uuid7(self) -> bytes:
        """A fresh 16-byte UUIDv7 (RFC 9562 §5.7): 48 bits of milliseconds, 74 random bits.

        The random bits come from the kernel, a page at a time, because a system call for each id costs as much
        as the rest of the id.
        """
        place = self._place
        if place == len(self._random):
            self._random = os.urandom(4000)
            place = 0
        self._place = place + 10
        return uuid7_of(time.time_ns() // 1_000_000, self._random[place : place + 10])


def uuid7_of(millis: int, random: bytes) -> bytes:
    """The UUIDv7 for a time in milliseconds and 10 random bytes, 6 bits of which give way to version and variant."""
    return (millis << 80 | int.from_bytes(random, "big") & _RANDOM_BITS | _VERSION_AND_VARIANT).to_bytes(16, "big")


def uuid7_millis(identifier: bytes) -> int:
    """Milliseconds since the epoch that a UUIDv7 carries."""
    return int.from_bytes(identifier[:6], "big")


def uuid_text(identifier: bytes) -> str:
    """The usual 8-4-4-4-12 writing of 16 bytes."""
    text = identifier.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
