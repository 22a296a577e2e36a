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

    nanos = staticmethod(time.time_ns)
    """Nanoseconds since the Unix epoch, UTC."""

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
            self._random = _tails(os.urandom(4000))
            place = 0
        self._place = place + 10
        return (time.time_ns() // 1_000_000).to_bytes(6, "big") + self._random[place : place + 10]


def _tails(random: bytes) -> bytes:
    """Random bytes, with the 6 bits of version and variant set in each 10 of them; all at once, as one number."""
    count = len(random) // 10
    clear = int.from_bytes(_RANDOM_BITS.to_bytes(10, "big") * count, "big")
    marks = int.from_bytes(_VERSION_AND_VARIANT.to_bytes(10, "big") * count, "big")
    return (int.from_bytes(random, "big") & clear | marks).to_bytes(len(random), "big")


def uuid7_millis(identifier: bytes) -> int:
    """Milliseconds since the epoch that a UUIDv7 carries."""
    return int.from_bytes(identifier[:6], "big")


def uuid_text(identifier: bytes) -> str:
    """The usual 8-4-4-4-12 writing of 16 bytes."""
    text = identifier.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
