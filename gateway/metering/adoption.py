"""Adoption: what dead processes left in the journal gets into the books all the same.

The steward runs in the supervisor of a node. A boot directory whose lock can be taken has no living process: the
steward cuts what the process was writing when it died, writes an `estimated` final for each use that was started and
has no end, sends the segments and deletes them by the same rules as any other. It may itself be killed at any point:
its successor finds the same starts, writes the same estimates under the same ids, and the books take each once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

import msgspec

from gateway.background import Background
from gateway.clock import Clock
from gateway.log import Trouble
from gateway.metering.directory import Boot
from gateway.metering.event import UsageEvent, decode_event
from gateway.metering.heartbeat import Heart
from gateway.metering.segment import Segment, repair, settled, survey
from gateway.metering.usage import Usage, UsageOptions
from gateway.metrics import Metrics
from gateway.problem import JournalFull
from gateway.stores.redis import Redis

_SCAN_SECONDS: Final = 1.0
_LARGEST_SEGMENT: Final = 2**20
"""The steward writes little, and its segment must find room where the journal is nearly full."""

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)


class Estate(NamedTuple):
    """What a dead process left: its segments, the uses without an end, and how many segments ended in a torn record."""

    segments: list[Segment]
    orphans: list[UsageEvent]
    torn: int


class Steward:
    """Adopts the segments of dead processes, and says for the whole node what is not yet accounted for."""

    def __init__(self, options: UsageOptions, *, redis: Redis, clock: Clock, metrics: Metrics) -> None:
        """Claims a directory of its own in the journal's. Raises JournalUnusable."""
        small = min(options.journal.segment, _LARGEST_SEGMENT)
        own = options.model_copy(update={"journal": options.journal.model_copy(update={"segment": small})})
        self._usage = Usage(own, redis=redis, clock=clock, metrics=metrics)
        self._directory = self._usage.directory
        self._shards = options.shards
        self._clock = clock
        self._adopted: dict[str, Boot] = {}
        self._unsettled: dict[str, Estate] = {}
        self._heart = Heart(self._directory, redis=redis, clock=clock, metrics=metrics, budget=options.journal.budget)
        self._background = Background()
        self._one_at_a_time = asyncio.Lock()
        self._stopping = False
        self._trouble = Trouble(_log)
        self._adopted_total = metrics.counter(
            "tallygate_journal_adopted_segments_total", "Segments taken over from processes that died."
        )
        self._torn_total = metrics.counter(
            "tallygate_journal_torn_total", "Segments of dead processes that ended in a record cut short or damaged."
        )
        self._estimated_total = metrics.counter(
            "tallygate_usage_estimated_total", "Uses whose process died before they ended, written down as estimated."
        )

    @property
    def node(self) -> str:
        """The id of this machine in the books."""
        return self._usage.node

    async def start(self) -> None:
        """Begins to adopt, and to publish heartbeats. That the store is down is no error."""
        await self._usage.start()
        self._background.every(_SCAN_SECONDS, self.adopt, "adoption", at_once=True)
        self._background.every(_SCAN_SECONDS, self.beat, "heartbeat", at_once=True)

    async def stop(self, deadline_seconds: float) -> None:
        """To be called when the node's other processes have ended: adopts what they left, and waits for at most
        `deadline_seconds` until all of it is accounted for. What is not stays on disk for the next start.
        """
        self._stopping = True
        try:
            await self._adopt()
            await self._background.stop()
            await self._usage.stop(deadline_seconds)
            await self._remove_empty()
            await self.beat()
        finally:
            await self._background.stop()
            for boot in self._adopted.values():
                boot.close()

    async def adopt(self) -> None:
        """Looks once for dead processes and takes over what they left. Raises OSError if the journal cannot be read."""
        if not self._stopping:
            await self._adopt()

    async def _adopt(self) -> None:
        # Never cut short: a lock taken in a thread must get into the hands of somebody who gives it back.
        async with self._one_at_a_time:
            await self._look()

    async def _look(self) -> None:
        for name in await _in_thread(self._directory.boots):
            if name != self._usage.boot and name not in self._adopted:
                try:
                    await self._take_over(name)
                    self._trouble.over(name)
                except OSError as error:
                    self._trouble.say(name, f"cannot adopt the segments of {name}, trying again: {error}")
        for name, estate in list(self._unsettled.items()):
            if await self._settle(estate):
                del self._unsettled[name]
        await self._remove_empty()
        await _in_thread(lambda: self._directory.tidy(self._clock.micros() / 1e6))

    async def beat(self) -> None:
        """Publishes one heartbeat of the node, if the store takes it."""
        known = {self._usage.boot, *self._adopted} - self._unsettled.keys()
        times = [at for at in (self._usage.journal.oldest_at, self._usage.backlog.oldest_at) if at is not None]
        await self._heart.beat(known, min(times, default=None))

    async def _take_over(self, name: str) -> None:
        boot = await _in_thread(lambda: self._directory.adopt(name))
        if boot is None:
            return
        try:
            estate = await _in_thread(lambda: inspect(boot, self._shards))
        except BaseException:
            boot.close()  # and it is found again
            raise
        self._adopted[name] = boot
        self._unsettled[name] = estate
        self._torn_total.inc(estate.torn)
        self._adopted_total.inc(len(estate.segments))
        if estate.segments:
            _log.info("adopted %d segments of %s, %d uses without end", len(estate.segments), name, len(estate.orphans))

    async def _settle(self, estate: Estate) -> bool:
        """Writes the estimates that are missing, then hands the segments on; False if the journal has no room yet."""
        try:
            while estate.orphans:
                durable = self._usage.journal.append_extra(estimate(estate.orphans[-1]))
                if durable is not None:
                    await durable
                _ = estate.orphans.pop()
                self._estimated_total.inc()
        except JournalFull:
            return False
        for segment in estate.segments:
            self._usage.backlog.add(segment)
        return True

    async def _remove_empty(self) -> None:
        for name in [name for name in self._adopted if name not in self._unsettled]:
            try:
                if await _in_thread(self._adopted[name].remove):
                    del self._adopted[name]
                    self._trouble.over(name)
            except OSError as error:
                self._trouble.say(name, f"cannot remove the directory of {name}, trying again: {error}")


def inspect(boot: Boot, shards: int) -> Estate:
    """Reads all segments of a dead process and repairs them; deletes those without a record. Raises OSError.

    Idempotent: what it repairs it would not find again. Memory is bounded by the uses that had not ended.
    """
    segments, torn = [], 0
    payloads: dict[bytes, bytes] = {}
    holders: dict[bytes, list[Segment]] = {}
    for segment in boot.segments():
        starts = survey(segment, shards)
        torn += repair(segment) > 0
        if segment.position == 0:
            segment.path.unlink()
            continue
        segment.unsent = True
        segments.append(segment)
        payloads |= starts
        for event_id in starts:
            holders.setdefault(event_id, []).append(segment)
    for segment in segments if payloads else ():
        for event_id in settled(segment, holders):
            segment.settles.update(holder for holder in holders[event_id] if holder is not segment)
            payloads.pop(event_id, None)
    return Estate(segments, [decode_event(payload) for payload in payloads.values()], torn)


def estimate(started: UsageEvent) -> UsageEvent:
    """The final event of a use whose end nobody saw: what was known of it when it was last written down.

    A pure function of that record, so that however often it is written, the books see the same event.
    """
    return msgspec.structs.replace(started, outcome="estimated", status=0)


async def _in_thread(work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(None, work)
