"""Decisions: what edge processes have decided, taken from their stream into the audit log.

A frame is taken up in a transaction that also notes its number, and then deleted from the stream. Cut off at any
moment it is found again, and known. So each frame that reached Redis counts once, unless Redis loses it first.
"""

from __future__ import annotations

import logging
from typing import Final

import msgspec

from gateway.clock import Clock
from gateway.decisions import STREAM, Frame, decode
from gateway.metrics import Metrics
from gateway.postgres import Database, DatabaseUnavailable, Retry, Unacceptable
from gateway.stores.redis import Entry, Redis
from gateway.stores.store import StoreUnavailable

TAKE_SECONDS: Final = 1.0
"""How often there is something to take."""
_FRAMES: Final = 50
"""Frames taken at once."""
_TIDY_SECONDS: Final = 60.0

_log: Final = logging.getLogger(__name__)
_encode: Final = msgspec.json.Encoder().encode


class Recorder:
    """`take` as often as you like; several that do so at once do no harm."""

    def __init__(self, database: Database, redis: Redis, *, metrics: Metrics, clock: Clock) -> None:
        """`database` acts as `PUBLISHER`."""
        self._database = database
        self._redis = redis
        self._clock = clock
        self._tidied = 0.0
        self._troubled = False
        self._taken = metrics.counter(
            "tallygate_control_decisions_total", "Decisions of the edge that the audit log has taken up."
        )
        self._unusable = metrics.counter(
            "tallygate_control_decisions_unusable_total",
            "Frames of decisions that could not be read, and were dropped.",
        )
        self._failures = metrics.counter(
            "tallygate_control_decisions_failures_total", "Times that taking up decisions had to be tried again."
        )

    async def take(self) -> None:
        """Takes up all there is. What stands in the way is logged, the first of several times, and it stays there."""
        try:
            while entries := await self._redis.read_oldest(STREAM, count=_FRAMES):
                for entry in entries:
                    await self._take(entry)
            await self._tidy()
            self._troubled = False
        except (DatabaseUnavailable, Retry, StoreUnavailable) as error:
            self._failures.inc()
            if not self._troubled:
                _log.warning("decisions of the edge wait: %s", error)
            self._troubled = True

    async def _take(self, entry: Entry) -> None:
        try:
            frame = decode(entry.payload)
            if await self._record(frame):
                self._taken.inc(sum(each.times for each in frame.entries))
        except (msgspec.MsgspecError, UnicodeDecodeError, Unacceptable) as error:
            self._unusable.inc()
            _log.warning("decisions in %s %s are dropped: %s", STREAM, entry.identifier, error)
        await self._redis.delete(STREAM, [entry.identifier])

    async def _record(self, frame: Frame) -> bool:
        async with self._database.transaction() as transaction:
            entries = _encode(frame.entries).decode()
            since, until = frame.since / 1e6, frame.until / 1e6
            return bool(await transaction.value("take_decisions", frame.sender, frame.number, since, until, entries))

    async def _tidy(self) -> None:
        now = self._clock.monotonic()
        if now > self._tidied + _TIDY_SECONDS:
            self._tidied = now
            async with self._database.session() as session:
                await session.run("forget_decisions")
                await session.run("forget_senders")
