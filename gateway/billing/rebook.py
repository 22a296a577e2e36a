"""Rebook: books what was set aside and can be booked by now.

A record keeps its fate for ever, so its event comes in anew, as a record of a segment that only this run has. That it
is booked once is what its id is for: a second run finds it booked.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Final

from gateway.billing.database import WORKER, Database, Row
from gateway.billing.intake import Intake
from gateway.billing.record import Delivered, Fate, Place, Record, examine
from gateway.clock import Clock
from gateway.config.configuration import GatewayConfig
from gateway.metering.segment import shard_of_payload
from gateway.metrics import Metrics
from gateway.stores.address import postgres_url

NODE: Final = "rebook"
"""The first part of the segments' names, in place of a node's id."""
_AT_ONCE: Final = 1000
_STATEMENT_SECONDS: Final = 60.0
_ALL_TIME: Final = 10_000 * 366 * 86400


async def rebook(config: GatewayConfig, clock: Clock) -> list[str]:
    """Books parked records and dead letters that nothing speaks against any more; the lines of a report.

    An event older than retention is booked if its day is neither archived nor still to be opened.
    Raises DatabaseUnavailable, Retry, or StoreUnavailable if PostgreSQL has no address yet.
    """
    async with Database(
        postgres_url(config.stores), WORKER, connections=2, statement_timeout=_STATEMENT_SECONDS
    ) as database:
        return await _Rebooking(database, config, clock).run()


class _Rebooking:
    def __init__(self, database: Database, config: GatewayConfig, clock: Clock) -> None:
        self._database = database
        self._shards = config.usage.shards
        self._retention = config.billing.retention
        self._clock = clock
        self._intake = Intake(database, Metrics(None), clock, retention=_ALL_TIME)
        self._boot = os.urandom(8).hex()
        self._numbers: Counter[str] = Counter()
        self._fates: Counter[Fate] = Counter()
        self._left: Counter[str] = Counter()

    async def run(self) -> list[str]:
        after = ("", -1)
        while rows := await self._page(after):
            after = (rows[-1]["segment"], rows[-1]["number"])
            await self._book(await self._bookable(rows))
        booked = self._fates[Fate.BOOKED]
        lines = ["1 event booked" if booked == 1 else f"{booked:,} events booked"]
        lines += [f"{count:,} left: {reason}" for reason, count in self._left.most_common()]
        refused = self._fates[Fate.DEAD_LETTER]
        return [*lines, f"{refused:,} left: PostgreSQL does not take them"] if refused else lines

    async def _page(self, after: tuple[str, int]) -> list[Row]:
        async with self._database.session() as session:
            return await session.rows("set_aside_after", NODE, *after, _AT_ONCE)

    async def _bookable(self, rows: Iterable[Row]) -> list[Record]:
        """The records that can be booked and are not. What else there is, is counted with its reason."""
        now = self._clock.micros() // 1000
        records = [examine(Place(row["segment"], row["number"]), row["payload"], now, _ALL_TIME * 1000) for row in rows]
        by_day: dict[date, list[Record]] = {}
        for record in records:
            if record.refusal is not None:
                self._left[record.refusal.reason] += 1
            elif record.day is not None:
                by_day.setdefault(record.day, []).append(record)
        found = []
        for day, those in by_day.items():
            booked = await self._booked(day, those)
            missing = [record for record in those if record.event_id not in booked]
            if not missing or await self._is_open(day, now):
                found += missing
            else:
                self._left[f"the day {day} is archived, or so old that it may be"] += len(missing)
        return found

    async def _booked(self, day: date, records: Iterable[Record]) -> set[object]:
        async with self._database.session() as session:
            rows = await session.rows("booked_by_id", day, [record.event_id for record in records])
        return {row["event_id"] for row in rows}

    async def _is_open(self, day: date, now_millis: int) -> bool:
        """Whether events of a day can be booked. One beyond retention is not opened: it may have been archived."""
        if (datetime.fromtimestamp(now_millis / 1000, UTC).date() - day).days * 86400 <= self._retention:
            return await self._intake.open_day(day)
        async with self._database.session() as session:
            return bool(await session.value("day_is_open", day))

    async def _book(self, records: Iterable[Record]) -> None:
        by_shard: dict[int, list[Record]] = {}
        for record in records:
            by_shard.setdefault(shard_of_payload(record.payload, self._shards), []).append(record)
        for shard, those in by_shard.items():
            segment = f"{NODE}/{self._boot}/{shard:08d}"
            first = self._numbers[segment]
            self._numbers[segment] += len(those)
            placed = [(Place(segment, first + at), record.payload) for at, record in enumerate(those)]
            accounted = await self._intake.account(shard, [Delivered(NODE, b"", placed)])
            self._fates.update(accounted.fates)
