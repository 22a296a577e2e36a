"""Backlog: closed segments, until PostgreSQL has accounted for every final record in them. Only then are they deleted.

This is where a loss heals, wherever it happened: in memory, in Redis, in a worker. A segment that is not accounted for
after a while is sent again, whole; the books take each record once, however often it arrives. It is not sent again
while what was sent before may still be waiting in the stream: that would only bury a worker that is behind.
"""

from __future__ import annotations

import asyncio
import logging
from itertools import islice
from pathlib import Path
from typing import Final

from gateway.clock import Clock
from gateway.log import Trouble
from gateway.metering.event import VERSION, Frame, encode_frame
from gateway.metering.segment import FINAL, Record, Segment, SegmentReader, shard_of_payload
from gateway.metering.stream import GROUP, forget_counts, may_hold, read_counts, stream_name
from gateway.metrics import Metrics
from gateway.stores.redis import Redis
from gateway.stores.store import StoreUnavailable

CARRY_AFTER_SECONDS: Final = 30.0
"""How long a segment may be kept for nothing but uses that have not ended, before these are written again elsewhere."""

_CHECKED_AT_ONCE: Final = 64
_SENT_PER_ROUND: Final = 16
_RECORDS_PER_TRIP: Final = 500
_MOST_DOUBLINGS: Final = 5

_log: Final = logging.getLogger(__name__)


class _Wait:
    """Since when a segment waits, when it may be sent (again), and how often it was."""

    __slots__ = ("closed_at", "send_at", "times_sent")

    def __init__(self, closed_at: float, send_at: float) -> None:
        self.closed_at = closed_at
        self.send_at = send_at
        self.times_sent = 0


class Backlog:
    """The closed segments that one process answers for: its own, or those of the dead that it adopted."""

    def __init__(
        self,
        redis: Redis,
        *,
        node: str,
        shards: int,
        resend_after: float,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._redis = redis
        self._node = node
        self._shards = shards
        self._resend_after = resend_after
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._trouble = Trouble(_log)
        self._waiting: dict[Segment, _Wait] = {}
        self._resent_total = metrics.counter(
            "tallygate_usage_frames_resent_total", "Frames sent from the journal, because memory or Redis lost them."
        )
        self._deleted_total = metrics.counter(
            "tallygate_journal_deleted_segments_total", "Segments deleted because every record is accounted for."
        )
        self._damaged_total = metrics.counter(
            "tallygate_journal_damaged_total", "Closed segments whose file is gone or does not hold what was written."
        )
        self._errors_total = metrics.counter(
            "tallygate_usage_store_errors_total", "Times the store did not say what is accounted for, or took no frame."
        )
        self._segments = metrics.gauge(
            "tallygate_usage_unaccounted_segments", "Closed segments that are not yet accounted for."
        )

    def __len__(self) -> int:
        """How many segments are not deleted."""
        return len(self._waiting)

    @property
    def unaccounted(self) -> int:
        """How many segments hold records that are not known to be accounted for."""
        return sum(not segment.accounted for segment in self._waiting)

    @property
    def oldest_at(self) -> int | None:
        """The earliest time of use, in microseconds, in what is not accounted for, where the segments know it."""
        times = [segment.oldest_at for segment in self._waiting if not segment.accounted and segment.oldest_at]
        return min(times, default=None)

    def add(self, segment: Segment) -> None:
        """Takes a segment that is written no further. What was never sent is sent at once, the rest after a while."""
        now = self._clock.monotonic()
        self._waiting[segment] = _Wait(now, now if segment.unsent else now + self._resend_after)

    def kept_for_starts(self) -> list[Segment]:
        """Segments kept, for a while now, for nothing but the open starts in them."""
        closed_before = self._clock.monotonic() - CARRY_AFTER_SECONDS
        return [
            segment
            for segment, wait in self._waiting.items()
            if segment.accounted and segment.starts and wait.closed_at <= closed_before
        ]

    async def check(self) -> None:
        """Asks what is accounted for, and deletes it."""
        async with self._one_at_a_time:
            try:
                await self._ask()
            except StoreUnavailable:
                self._errors_total.inc()
            await self._delete()
            self._segments.set(self.unaccounted)

    async def _ask(self) -> None:
        unaccounted = [segment for segment in self._waiting if not segment.accounted]
        for at in range(0, len(unaccounted), _CHECKED_AT_ONCE):
            asked = unaccounted[at : at + _CHECKED_AT_ONCE]
            counts = await read_counts(self._redis, self._node, [(each.name, sorted(each.shards)) for each in asked])
            for segment, count in zip(asked, counts, strict=True):
                segment.accounted = count >= segment.finals

    async def _delete(self) -> None:
        deletable: dict[Segment, None] = {}
        for segment in self._waiting:
            # Earlier segments come first here, so one pass finds a whole row of them, in order.
            settled = all(other.deleted or other in deletable for other in segment.settles)
            if settled and segment.accounted and not segment.starts:
                deletable[segment] = None
        if not deletable:
            return
        paths = [segment.path for segment in deletable]
        gone, error = await asyncio.get_running_loop().run_in_executor(None, _unlink, paths)
        if error is None:
            self._trouble.over("deleting")
        else:
            self._trouble.say("deleting", f"cannot delete {paths[gone]}, which is accounted for: {error.strerror}")
        deleted = list(deletable)[:gone]
        for segment in deleted:
            self._forget(segment)
        self._deleted_total.inc(gone)
        try:
            await forget_counts(self._redis, self._node, [(each.name, each.shards) for each in deleted])
        except StoreUnavailable:
            self._errors_total.inc()  # the steward sweeps them up

    def _forget(self, segment: Segment) -> None:
        segment.deleted = True
        segment.settles.clear()
        self._waiting.pop(segment, None)

    async def resend(self) -> None:
        """Sends what is due and cannot be waiting in the stream, from the file."""
        now = self._clock.monotonic()
        due = [segment for segment, wait in self._waiting.items() if _due(segment, wait, now)]
        try:
            for segment in await self._lost(due, now):
                if not segment.accounted:
                    await self._send(segment, self._waiting[segment])
        except StoreUnavailable:
            self._errors_total.inc()

    async def _lost(self, due: list[Segment], now: float) -> list[Segment]:
        """Those of the due segments of which something is neither accounted for nor waiting in a stream."""
        shards = sorted({shard for segment in due for shard in segment.shards})
        states = await self._redis.stream_states([stream_name(shard) for shard in shards], GROUP)
        state_of = dict(zip(shards, states, strict=True))
        lost = []
        for segment in due:
            if not segment.unsent and any(may_hold(state_of[shard], last) for shard, last in segment.sent.items()):
                self._waiting[segment].send_at = now + self._resend_after
            else:
                lost.append(segment)
        return lost[:_SENT_PER_ROUND]

    async def _send(self, segment: Segment, wait: _Wait) -> None:
        """Sends all final records of a segment. Raises StoreUnavailable; then it is due again at once."""
        reader = SegmentReader(segment.path)
        try:
            finals = (record for record in reader if record.kind == FINAL)
            while batch := list(islice(finals, _RECORDS_PER_TRIP)):
                await self._send_records(segment, batch)
        except OSError as error:
            wait.send_at = self._clock.monotonic() + self._resend_after
            self._unreadable(segment, error)
            return
        if reader.finals < segment.finals:
            self._damaged_total.inc()
            _log.error("segment %s holds only %d of %d records", segment.name, reader.finals, segment.finals)
        segment.unsent = False
        wait.send_at = self._clock.monotonic() + self._resend_after * 2 ** min(wait.times_sent, _MOST_DOUBLINGS)
        wait.times_sent += 1

    async def _send_records(self, segment: Segment, records: list[Record]) -> None:
        by_shard: dict[int, list[Record]] = {}
        for record in records:
            by_shard.setdefault(shard_of_payload(record.payload, self._shards), []).append(record)
        identifiers = await self._redis.append(
            [(stream_name(shard), _frame(segment, some)) for shard, some in by_shard.items()]
        )
        segment.sent.update(zip(by_shard, identifiers, strict=True))
        self._resent_total.inc(len(identifiers))

    def _unreadable(self, segment: Segment, error: OSError) -> None:
        if segment.accounted:
            return  # and deleted, a moment ago
        self._damaged_total.inc()
        _log.error("segment %s cannot be read; what it holds may not be billed: %s", segment.name, error)
        if isinstance(error, FileNotFoundError):
            self._forget(segment)


def _due(segment: Segment, wait: _Wait, now: float) -> bool:
    return not segment.accounted and not segment.unshipped and wait.send_at <= now


def _frame(segment: Segment, records: list[Record]) -> bytes:
    numbers = [record.number for record in records]
    return encode_frame(Frame(VERSION, segment.name, numbers, [record.payload for record in records]))


def _unlink(paths: list[Path]) -> tuple[int, OSError | None]:
    """Deletes files in order and stops at the first that cannot be; how many are gone, and what is wrong with that."""
    for done, path in enumerate(paths):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            return done, error
    return len(paths), None
