"""Journal: an append-only file per process; an event is in it before the last byte of its answer leaves.

What makes it safe to serve: `reserve` at admission promises room for two records of the largest size (a started one and
its final), so a full disk refuses a request before the upstream is called and never after. The promise is kept by
arithmetic alone: a segment with `n` free bytes is sure to take `n // LARGEST_RECORD` records, whatever their sizes, and
no more are promised than the open segment and the spares are sure to take.

Not thread-safe: everything here runs on the event loop's thread, except where a file is made, synced or closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from gateway.clock import Clock
from gateway.metering.directory import Boot
from gateway.metering.event import UsageEvent, encode_event
from gateway.metering.group_sync import GroupSync, Waiting
from gateway.metering.segment import FINAL, LARGEST_PAYLOAD, STARTED, Segment
from gateway.metering.writer import Writer
from gateway.metrics import Metrics
from gateway.options import Duration, Options, Size
from gateway.problem import JournalFull

RECORDS_PER_EXCHANGE: Final = 2

_log: Final = logging.getLogger(__name__)


class JournalOptions(Options):
    """Where usage is written down first, and how much of it may wait there."""

    directory: str = "var/journal"
    """Directory of the segments, on a disk of this machine; relative to where the command runs."""
    sync: Literal["os", "disk"] = "os"
    """`os` survives the death of any process; `disk` survives a power cut too, for some milliseconds of latency."""
    budget: Size = 2 * 2**30
    """Disk space of all segments of this node."""
    segment: Size = Field(default=8 * 2**20, ge=64 * 1024)
    """Size of one segment; its space is allocated when it is opened."""
    segment_age: Duration = Field(default=5.0, gt=0)
    """How long after its first usage event a segment is closed although it is not full, so that it can be deleted."""
    when_full: Literal["refuse", "second_mark"] = "refuse"
    """At the budget: `refuse` what could not be recorded (503), or go on to the `second_mark` and refuse there."""
    second_mark: Size = 4 * 2**30
    """The disk space at which `second_mark` refuses."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.budget < 2 * self.segment:
            raise ValueError("budget must have room for two segments")
        if self.when_full == "second_mark" and self.second_mark < self.budget:
            raise ValueError("second_mark must not be below budget")
        return self

    @property
    def limit(self) -> int:
        """The bytes that are never exceeded."""
        return self.second_mark if self.when_full == "second_mark" else self.budget


class Journal:
    """What one process writes down: reservations, started uses, usage events."""

    def __init__(
        self,
        options: JournalOptions,
        *,
        boot: Boot,
        clock: Clock,
        metrics: Metrics,
        ship: Callable[[Segment, int, str, bytes], None],
        closed: Callable[[Segment], None],
    ) -> None:
        """`ship(segment, number, organization, payload)` is called for each final record that is as safe as `sync`
        asks; `closed(segment)` once for each segment that is written no further.
        """
        self._ship = ship
        self._clock = clock
        self._durable = options.sync == "disk"
        self._age_seconds = options.segment_age
        self._writer = Writer(
            boot, size=options.segment, durable=self._durable, clock=clock, metrics=metrics, closed=closed
        )
        self._sync = GroupSync(self._synced, self._sync_failed)
        self._promised = 0
        self._room = 0
        self._open: dict[bytes, tuple[Segment, bytes]] = {}
        self._finished = False
        self._aging: tuple[Segment, float] | None = None
        self._refused_total = metrics.counter(
            "tallygate_journal_refused_total", "Requests refused because their usage could not have been recorded."
        )
        self._room_records = metrics.gauge(
            "tallygate_journal_room_records", "Records of the largest size that may still be promised."
        )
        self._starts = metrics.gauge("tallygate_journal_open_starts", "Uses written down as started, not yet ended.")

    @property
    def oldest_at(self) -> int | None:
        """The earliest time of use among the extra events in the open segment, in microseconds; None without any."""
        return self._writer.segment.oldest_at

    def reserve(self) -> None:
        """Promises room for one exchange's records. Raises JournalFull when there is none."""
        if self._room < RECORDS_PER_EXCHANGE:
            self._find_room(RECORDS_PER_EXCHANGE)
        self._room -= RECORDS_PER_EXCHANGE
        self._promised += RECORDS_PER_EXCHANGE

    def release(self) -> None:
        """Takes back a reservation of which nothing was used: neither `start` nor `append` succeeded."""
        self._promised -= RECORDS_PER_EXCHANGE

    def start(self, event: UsageEvent) -> None:
        """Writes down that a use has begun: should the process die, this is what will be billed, as `estimated`.

        A final with the same event id must follow. Raises JournalFull, and leaves the reservation whole.
        """
        payload = encode_event(event)
        if len(payload) > LARGEST_PAYLOAD:
            raise _too_large(payload)
        segment = self._writer.write(STARTED, payload)
        self._promised -= 1
        segment.starts += 1
        self._open[event.event_id] = (segment, payload)

    def renew(self, event: UsageEvent) -> None:
        """Writes an open use down again with what it has come to: should the process die, that will be billed instead.

        Does nothing while there is no room for it, nor for a use that is not open.
        """
        payload = encode_event(event)
        if event.event_id in self._open and len(payload) <= LARGEST_PAYLOAD and self._count_room() > 0:
            self._rewrite({event.event_id: payload})

    def append(self, event: UsageEvent) -> asyncio.Future[None] | None:
        """Writes a final record, which ends the reservation. It is in the file when this returns.

        With `sync: disk` the returned future is done when it is on the disk, or holds JournalFull if it cannot get
        there. Raises JournalFull if there is no segment to write to, ValueError if the event is larger than
        LARGEST_PAYLOAD.
        """
        self._promised -= 1 if event.event_id in self._open else RECORDS_PER_EXCHANGE
        payload = encode_event(event)
        if len(payload) > LARGEST_PAYLOAD:
            raise _too_large(payload)
        segment = self._writer.segment
        if not segment.append(FINAL, payload):
            segment = self._writer.write(FINAL, payload)
        if self._open:
            self._settle(event.event_id, segment)
        if not self._durable:
            self._ship(segment, segment.finals - 1, event.organization, payload)
            return None
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sync.add(Waiting(segment, segment.finals - 1, event.organization, payload, durable, repeated=False))
        return durable

    def append_extra(self, event: UsageEvent) -> asyncio.Future[None] | None:
        """Writes a final record for which nothing was reserved. Raises as `append`, and JournalFull without room."""
        self._find_room(1)
        self._room -= 1
        self._promised += RECORDS_PER_EXCHANGE  # which `append` takes back
        durable = self.append(event)
        segment = self._writer.segment
        earlier = segment.oldest_at
        segment.oldest_at = event.occurred_at if earlier is None else min(earlier, event.occurred_at)
        return durable

    def _settle(self, event_id: bytes, segment: Segment) -> None:
        started = self._open.pop(event_id, None)
        if started is not None:
            started[0].starts -= 1
            if started[0] is not segment:
                segment.settles.add(started[0])

    def _find_room(self, records: int) -> None:
        while self._count_room() < records:
            if self._finished or not self._writer.spares.make_now():
                self._refused_total.inc()
                raise JournalFull(headers={"retry-after": "1"})

    def _count_room(self) -> int:
        """Counts anew. Between two counts `_room` only falls: records that turn out small are not noticed at once."""
        self._room = self._writer.free() - self._promised
        return self._room

    def _synced(self, group: list[Waiting]) -> None:
        for waiting in group:
            self._ship(waiting.segment, waiting.number, waiting.organization, waiting.payload)
            if not waiting.durable.done():
                waiting.durable.set_result(None)

    def _sync_failed(self, group: list[Waiting], error: OSError) -> None:
        """After a failed sync nobody knows what is on the disk. The records are written once more, into a segment that
        has not failed; should both copies survive, the books count the second as a duplicate.
        """
        _log.error("cannot sync the journal: %s", error)
        try:
            self._writer.refused(waiting.segment for waiting in group)
            for waiting in group:
                waiting.segment.unsent = True
                if waiting.repeated:
                    raise JournalFull from error
                segment = self._writer.write(FINAL, waiting.payload)
                self._sync.add(waiting._replace(segment=segment, number=segment.finals - 1, repeated=True))
        except JournalFull as refusal:
            for waiting in group:
                if not waiting.durable.done():
                    waiting.durable.set_exception(refusal)
        self._count_room()

    # Housekeeping

    def tend(self, *, close_old: bool = True) -> None:
        """Keeps room ahead, and closes a segment that has waited long enough, unless told not to; to be called some
        twenty times a second. Never waits: what touches the disk runs in a thread.
        """
        if not self._finished:
            self._writer.spares.keep(self._count_room())
            if close_old:
                self._close_if_old()
        self._writer.seal()
        self._writer.count()
        self._room_records.set(self._count_room())
        self._starts.set(len(self._open))

    def _close_if_old(self) -> None:
        segment = self._writer.segment
        if not segment.finals:
            return
        now = self._clock.monotonic()
        if self._aging is None or self._aging[0] is not segment:
            self._aging = (segment, now)
        elif now - self._aging[1] >= self._age_seconds and self._writer.spares.ready_for(self._promised):
            self._writer.advance()

    def carry(self, segments: Collection[Segment]) -> None:
        """Writes the open starts of closed segments again, at the beginning of a new one, so that a long-lived use
        does not keep old segments alive. Does nothing while there is no room for it.
        """
        moving = {event_id: payload for event_id, (segment, payload) in self._open.items() if segment in segments}
        if not moving or not self._writer.spares.ready_for(self._promised + len(moving)):
            return
        if self._writer.segment.position:
            self._writer.advance()
        self._rewrite(moving)

    def _rewrite(self, starts: Mapping[bytes, bytes]) -> None:
        """Writes open starts once more, by event id; of two the later one counts. Those for which there is no room stay
        as they are.
        """
        moved, into = [], set()
        with contextlib.suppress(JournalFull):
            for event_id, payload in starts.items():
                old, _ = self._open[event_id]
                segment = self._writer.write(STARTED, payload)
                self._open[event_id] = (segment, payload)
                if segment is not old:
                    segment.starts += 1
                    segment.settles.add(old)
                    moved.append(old)
                    into.add(segment)
        self._count_room()

        def free() -> None:
            for old in moved:
                old.starts -= 1

        if self._durable and into:
            self._writer.sync(into, free)
        else:
            free()

    async def finish(self) -> None:
        """Ends writing: the open segment is closed, the spares are deleted, `reserve` refuses from now on."""
        self._finished = True
        await self._sync.drain()
        await self._writer.close()
        self.tend()


def _too_large(payload: bytes) -> ValueError:
    return ValueError(f"usage event of {len(payload)} bytes; at most {LARGEST_PAYLOAD} are recorded")
