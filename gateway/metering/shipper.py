"""Shipper: sends what the journal wrote down to the stream, while it is fresh, in frames.

Nothing here needs to be safe. What is lost on the way, or given up because memory is limited, is still in the journal,
and its segment is sent again from there (see `backlog`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from typing import Final, NamedTuple

from pydantic import Field

from gateway.metering.event import VERSION, Frame, encode_frame, shard_of
from gateway.metering.segment import Segment
from gateway.metering.stream import stream_name
from gateway.metrics import Metrics
from gateway.options import Duration, Options
from gateway.stores.redis import Redis
from gateway.stores.store import StoreUnavailable

MEMORY_LIMIT: Final = 16 * 2**20
"""Bytes of unsent events held in memory; beyond it they are sent from the file when their segment is closed."""

_OVERHEAD: Final = 160
"""About how many bytes an event takes beside its payload."""
_EVENTS_PER_TRIP: Final = 2000
_SEND_DEADLINE_SECONDS: Final = 2.0
_LONGEST_BACKOFF_SECONDS: Final = 2.0

_log: Final = logging.getLogger(__name__)


class FrameOptions(Options):
    """How many usage events travel together."""

    events: int = Field(default=500, ge=1, le=1000)
    """At most so many in one frame; one that is full leaves at once."""
    interval: Duration = Field(default=0.05, gt=0)
    """How long an event waits for others to travel with."""


class _Parcel(NamedTuple):
    """A frame on its way: where it goes, what it is, and what to note when it has arrived."""

    stream: str
    frame: bytes
    segment: Segment
    shard: int
    events: int
    size: int


class Shipper:
    """The events of one process on their way to the stream, one round trip in flight at a time."""

    def __init__(
        self,
        redis: Redis,
        options: FrameOptions,
        *,
        shards: int,
        metrics: Metrics,
        memory_limit: int = MEMORY_LIMIT,
    ) -> None:
        self._redis = redis
        self._options = options
        self._shards = shards
        self._full_frame = options.events
        self._memory_limit = memory_limit
        self._pending: list[list[tuple[Segment, int, bytes]]] = [[] for _ in range(shards)]
        self._parcels: list[_Parcel] = []
        self._bytes = 0
        self._full = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._frames_total = metrics.counter("tallygate_usage_frames_sent_total", "Frames sent to the usage streams.")
        self._dropped_total = metrics.counter(
            "tallygate_journal_dropped_from_memory_total",
            "Events no longer held in memory, because too many were unsent; they are sent from the journal.",
        )
        self._errors_total = metrics.counter(
            "tallygate_usage_send_errors_total", "Attempts to send usage that failed; the journal still holds it."
        )
        self._unsent_bytes = metrics.gauge("tallygate_usage_unsent_bytes", "Memory of the events not yet sent.")

    def add(self, segment: Segment, number: int, organization: str, payload: bytes) -> None:
        """Takes a final record that was written as `number` of `segment`."""
        held = self._bytes + len(payload) + _OVERHEAD
        if held > self._memory_limit:
            segment.shards.add(shard_of(organization, self._shards))
            segment.unsent = True
            self._dropped_total.inc()
            return
        self._bytes = held
        segment.unshipped += 1
        pending = self._pending[shard_of(organization, self._shards)]
        pending.append((segment, number, payload))
        if len(pending) == self._full_frame:
            self._full.set()

    async def run(self) -> None:
        """Sends, for as long as the process lives; while the store is down, tries again ever more patiently."""
        failures = 0
        while True:
            self._full.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._options.interval):
                    await self._full.wait()
            self._unsent_bytes.set(self._bytes)
            try:
                await self.flush()
            except StoreUnavailable as error:
                if not failures:
                    _log.warning("usage cannot be sent and stays in the journal: %s", error)
                failures += 1
                patience = min(self._options.interval * 2**failures, _LONGEST_BACKOFF_SECONDS)
                await asyncio.sleep(patience * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret
            else:
                if failures:
                    _log.info("usage is sent again, after %d failures", failures)
                failures = 0

    async def flush(self) -> None:
        """Sends what waits now. Raises StoreUnavailable; what has not arrived is kept and sent first next time."""
        async with self._one_at_a_time:
            left = sum(map(len, self._pending)) + sum(parcel.events for parcel in self._parcels)
            while left > 0:
                if not self._parcels:
                    self._parcels = self._pack()
                left -= await self._send()

    async def _send(self) -> int:
        try:
            identifiers = await self._redis.append(
                [(parcel.stream, parcel.frame) for parcel in self._parcels], deadline=_SEND_DEADLINE_SECONDS
            )
        except StoreUnavailable:
            self._errors_total.inc()
            raise
        for parcel, identifier in zip(self._parcels, identifiers, strict=True):
            parcel.segment.sent[parcel.shard] = identifier
            parcel.segment.unshipped -= parcel.events
        events = sum(parcel.events for parcel in self._parcels)
        self._bytes -= sum(parcel.size for parcel in self._parcels)
        self._frames_total.inc(len(self._parcels))
        self._parcels = []
        return events

    def _pack(self) -> list[_Parcel]:
        """Takes events off the lists, as many as make one round trip."""
        parcels: list[_Parcel] = []
        room = _EVENTS_PER_TRIP
        for shard, pending in enumerate(self._pending):
            while pending and room > 0:
                parcel = self._parcel(shard, pending, min(room, self._options.events))
                room -= parcel.events
                parcels.append(parcel)
        return parcels

    def _parcel(self, shard: int, pending: list[tuple[Segment, int, bytes]], limit: int) -> _Parcel:
        """Takes the oldest events of one shard, all of one segment, and makes them a frame."""
        segment = pending[0][0]
        numbers, payloads, size = [], [], 0
        for of, number, payload in pending[:limit]:
            if of is not segment:
                break
            numbers.append(number)
            payloads.append(payload)
            size += len(payload) + _OVERHEAD
        del pending[: len(numbers)]
        segment.shards.add(shard)
        frame = encode_frame(Frame(VERSION, segment.name, numbers, payloads))
        return _Parcel(stream_name(shard), frame, segment, shard, len(numbers), size)
