"""Writer: the segment that is open, the change to the next one, and what becomes of the closed ones."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Final

from gateway.clock import Clock
from gateway.metering.directory import Boot, NoRoom
from gateway.metering.segment import LARGEST_RECORD, Segment
from gateway.metering.spares import Spares, discard
from gateway.metrics import Metrics
from gateway.problem import JournalFull

_NOWHERE: Final = Segment("", Path(), 0)
"""The segment before the first one. It has no room, so the first record makes one."""

_log: Final = logging.getLogger(__name__)


class Writer:
    """Appends records to the segments of one process, one segment after the other."""

    def __init__(
        self,
        boot: Boot,
        *,
        size: int,
        durable: bool,
        clock: Clock,
        metrics: Metrics,
        closed: Callable[[Segment], None],
    ) -> None:
        self.spares = Spares(boot, size=size, clock=clock)
        self.segment = _NOWHERE
        self._durable = durable
        self._closed = closed
        self._unsealed: list[Segment] = []
        self._in_threads: set[asyncio.Future[Any]] = set()
        self._counted = (0, 0)
        self._records_total = metrics.counter("tallygate_journal_records_total", "Records written to the journal.")
        self._bytes_total = metrics.counter("tallygate_journal_written_bytes_total", "Bytes written to the journal.")
        self._errors_total = metrics.counter(
            "tallygate_journal_write_errors_total", "Syncs that the disk refused; their records were written once more."
        )

    def free(self) -> int:
        """How many records of the largest size are sure to fit into what is open and ready."""
        segment = self.segment
        return (segment.size - segment.position) // LARGEST_RECORD + self.spares.records

    def write(self, kind: int, payload: bytes) -> Segment:
        """Writes one record, all of it or none, and returns the segment it is in, as its last. Raises JournalFull."""
        segment = self.segment
        if not segment.append(kind, payload):
            segment = self.advance()
            segment.append(kind, payload)
        return segment

    def advance(self) -> Segment:
        """Goes on to the next segment. Raises JournalFull, and stays, if there is none."""
        try:
            following = self.spares.take()
        except (NoRoom, OSError) as error:
            raise _full(error) from error
        self._close()
        self.segment = following
        return following

    def refused(self, segments: Iterable[Segment]) -> None:
        """These could not be synced: nothing more is written to them. Raises JournalFull."""
        self._errors_total.inc()
        if self.segment in segments:
            _ = self.advance()

    def sync(self, segments: Iterable[Segment], then: Callable[[], None]) -> None:
        """Brings segments to the disk in a thread and calls `then`, unless the disk refuses."""
        held = list(segments)
        for segment in held:
            segment.syncing += 1

        def work() -> None:
            for segment in held:
                os.fdatasync(segment.fd)

        def ended(error: BaseException | None) -> None:
            for segment in held:
                segment.syncing -= 1
            if error is None:
                then()

        self._in_thread(work, "syncing the journal", ended)

    def seal(self) -> None:
        """Gives back, in a thread, the unused space and the descriptors of closed segments."""
        for segment in [segment for segment in self._unsealed if not segment.syncing]:
            self._unsealed.remove(segment)
            self._in_thread(partial(_seal, segment, self._durable), f"closing segment {segment.name}")

    def count(self) -> None:
        """Brings the counters up to date; not done for each record, because that would cost as much as writing it."""
        records, size = self._counted
        self._counted = (self.segment.records, self.segment.position)
        self._records_total.inc(self.segment.records - records)
        self._bytes_total.inc(self.segment.position - size)

    async def close(self) -> None:
        """Closes the open segment and deletes the spares. Nothing may be written afterwards."""
        self._close()
        await self.spares.close()
        while self._unsealed or self._in_threads:
            self.seal()
            if self._in_threads:
                await asyncio.wait(self._in_threads)

    def _close(self) -> None:
        self.count()
        segment, self.segment = self.segment, _NOWHERE
        self._counted = (0, 0)
        if segment.position:
            self._unsealed.append(segment)
            self._closed(segment)
        elif segment is not _NOWHERE:
            discard(segment)

    def _in_thread(
        self, work: Callable[[], None], what: str, ended: Callable[[BaseException | None], None] = lambda _: None
    ) -> None:
        def done(future: asyncio.Future[None]) -> None:
            self._in_threads.discard(future)
            error = future.exception()
            if error is not None:
                _log.error("%s failed: %s", what, error)
            ended(error)

        future = asyncio.get_running_loop().run_in_executor(None, work)
        self._in_threads.add(future)
        future.add_done_callback(done)


def _full(error: NoRoom | OSError) -> JournalFull:
    _log.error("a usage record could not be written: %s", error)
    return JournalFull(headers={"retry-after": "1"})


def _seal(segment: Segment, durable: bool) -> None:
    try:
        os.ftruncate(segment.fd, segment.position)
        if durable:
            os.fsync(segment.fd)
    finally:
        segment.close()
