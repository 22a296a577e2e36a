"""Spares: segments made ahead, so that going on to the next one costs the hot path no more than a new descriptor."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Final

from gateway.clock import Clock
from gateway.metering.directory import Boot, NoRoom
from gateway.metering.segment import LARGEST_RECORD, Segment

RETRY_SECONDS: Final = 0.1
"""How long after a failed attempt to make a segment the next one is worth its time."""

AHEAD: Final = 128
"""Records that there is to be room for at least, or one whole segment: making one may take its time."""

_log: Final = logging.getLogger(__name__)


class Spares:
    """The empty segments of one process, whose room is promised to requests already admitted.

    `records` is how many records of the largest size are sure to fit into them.
    """

    def __init__(self, boot: Boot, *, size: int, clock: Clock) -> None:
        self.records = 0
        self.records_each: Final = size // LARGEST_RECORD
        self._boot = boot
        self._size = size
        self._clock = clock
        self._ready: deque[Segment] = deque()
        self._sequence = 0
        self._retry_at = 0.0
        self._failing = False
        self._making: asyncio.Future[Segment] | None = None

    def take(self) -> Segment:
        """The next segment to write into, made at once if none is ready. Raises NoRoom, OSError."""
        segment = self._ready.popleft() if self._ready else None
        if segment is None:
            return self._boot.create(self._next(), self._size)
        self.records -= self.records_each
        return segment

    def make_now(self) -> bool:
        """Makes a segment while the event loop waits, for when requests would be refused otherwise.

        False if there is no room for it, or there was none a moment ago.
        """
        if self._clock.monotonic() < self._retry_at:
            return False
        try:
            self._add(self._boot.create(self._next(), self._size))
        except (NoRoom, OSError) as error:
            self._failed(error)
            return False
        return True

    def keep(self, room: int) -> None:
        """Makes a segment ahead, or gives one back, according to how many records may still be promised."""
        wanted = max(self.records_each // 2, min(self.records_each, AHEAD))
        if room < wanted:
            self.make_ahead()
        elif room > wanted + 2.5 * self.records_each:
            self.give_back()

    def ready_for(self, records: int) -> bool:
        """Whether the spares alone are sure to take so many records, and there is one; if not, one is made ahead."""
        if self.records >= max(records, 1):
            return True
        self.make_ahead()
        return False

    def make_ahead(self) -> None:
        """Makes a segment in a thread, unless one is being made or there was no room for it a moment ago."""
        if self._making is None and self._clock.monotonic() >= self._retry_at:
            loop = asyncio.get_running_loop()
            self._making = loop.run_in_executor(None, self._boot.create, self._next(), self._size)
            self._making.add_done_callback(self._made)

    def give_back(self) -> None:
        """Deletes one segment, so that other processes have its room."""
        if self._ready:
            self.records -= self.records_each
            discard(self._ready.pop())

    async def close(self) -> None:
        """Deletes all that is ready, after what is being made."""
        if self._making is not None:
            await asyncio.wait([self._making])
        while self._ready:
            self.give_back()

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence - 1

    def _add(self, segment: Segment) -> None:
        self._ready.append(segment)
        self.records += self.records_each
        if self._failing:
            self._failing = False
            _log.info("the journal has room again")

    def _made(self, future: asyncio.Future[Segment]) -> None:
        self._making = None
        error = future.exception()
        if error is None:
            self._add(future.result())
        elif isinstance(error, NoRoom | OSError):
            self._failed(error)
        else:
            raise error

    def _failed(self, error: NoRoom | OSError) -> None:
        self._retry_at = self._clock.monotonic() + RETRY_SECONDS
        if not self._failing and not isinstance(error, BlockingIOError):
            self._failing = True
            _log.warning("the journal gets no further segment: %s", error)


def discard(segment: Segment) -> None:
    """Deletes a segment that holds no record. What cannot be deleted is left to adoption."""
    segment.deleted = True
    segment.close()
    try:
        segment.path.unlink()
    except OSError as error:
        _log.warning("cannot delete the empty segment %s: %s", segment.path, error)
