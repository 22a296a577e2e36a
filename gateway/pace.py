"""Pace: how fast a client sends the body of its request, and takes what was written to it.

Nobody tells; a connection that waits for its client is looked at from time to time (README, decision 4).
"""

from __future__ import annotations

import sys
from asyncio import Transport
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import Final

RATE_SECONDS: Final = 10.0
"""Over how long the rate of a request's body is measured."""
_NO_INT: Final = bytes(4)


class Inflow:
    """A request's body on its way in, measured from the moment in which `received` bytes of it were here."""

    __slots__ = ("_mark", "_marked_at")

    def __init__(self, received: int, now: float) -> None:
        self._mark = received
        self._marked_at = now

    def too_slow(self, received: int, now: float, minimum_rate: float) -> bool:
        """Whether, over the last RATE_SECONDS, fewer bytes came than at this rate; False while they last."""
        seconds = now - self._marked_at
        if seconds < RATE_SECONDS:
            return False
        came = received - self._mark
        self._mark, self._marked_at = received, now
        return came < minimum_rate * seconds


class Outflow:
    """What was written to a client and not taken yet, here or in the kernel: `unsent` bytes at the last look.

    `fell_at` is when it was seen to be less than before.
    """

    __slots__ = ("_descriptor", "_transport", "fell_at", "unsent")

    def __init__(self, transport: Transport, now: float) -> None:
        self._transport = transport
        self._descriptor: int = transport.get_extra_info("socket").fileno()
        self.fell_at = now
        self.unsent = self._measure()

    def look(self, now: float) -> None:
        """See what is unsent now. What is written between two looks must have been added to `unsent`."""
        unsent = self._measure()
        if unsent < self.unsent:
            self.fell_at = now
        self.unsent = unsent

    def _measure(self) -> int:
        # The kernel alone knows how a slow client is doing: it asks for more only when a third of its queue is free.
        in_kernel = int.from_bytes(ioctl(self._descriptor, TIOCOUTQ, _NO_INT), sys.byteorder)
        return self._transport.get_write_buffer_size() + in_kernel
