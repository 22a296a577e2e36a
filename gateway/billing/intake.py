"""Intake: what a stream delivered is accounted for in one transaction, each record exactly once.

Frames come late, twice, in any order and from several senders. A record's fate is decided under the lock of its shard
and kept unique on (segment, number); whatever comes again is a replay and changes nothing. What is returned are
absolute counts, so publishing them twice, or after Redis lost them, does no harm.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

from msgspec.structs import replace

from gateway.billing.batch import Accounted, Batch
from gateway.billing.database import Database, Retry
from gateway.billing.record import Delivered, Fate, Poison, Record, Refusal, examine
from gateway.clock import Clock
from gateway.metrics import Metrics


class Intake:
    """Accounts for batches of stream entries."""

    def __init__(self, database: Database, metrics: Metrics, clock: Clock, *, retention: float) -> None:
        """`retention` in seconds: older events are parked."""
        self._database = database
        self._clock = clock
        self._retention_millis = int(retention * 1000)
        self._open_days: set[date] = set()
        records = metrics.counter(
            "tallygate_billing_records_total", "Records accounted for, by what became of them.", ("fate",)
        )
        self._fates = {fate: records.labels(fate.value) for fate in Fate}
        self._poison = metrics.counter(
            "tallygate_billing_poison_total", "Stream entries and records that no segment can account for."
        )
        self._seconds = metrics.histogram("tallygate_billing_batch_seconds", "Time to account for a batch.")

    async def account(self, shard: int, batch: Iterable[Delivered]) -> Accounted:
        """Accounts for entries of a shard's stream; when it returns, that is committed.

        Raises DatabaseUnavailable or Retry: nothing is written then, and the entries must not be acknowledged.
        """
        started = self._clock.monotonic()
        records, poison = self._examine(batch)
        records = await self._park_archived(records)
        try:
            async with self._database.transaction() as connection:
                accounted = await Batch(connection, shard).account(records, poison)
        except Retry:
            self._open_days.clear()  # perhaps a day's partition is gone
            raise
        for fate, count in accounted.fates.items():
            self._fates[fate].inc(count)
        self._poison.inc(accounted.poison)
        self._seconds.observe(self._clock.monotonic() - started)
        return accounted

    async def open_day(self, day: date) -> bool:
        """Makes sure that events of a day can be booked. False if that day is archived."""
        if day not in self._open_days:
            async with self._database.session() as session:
                if not await session.value("open_day", day):
                    return False
            self._open_days.add(day)
        return True

    def _examine(self, batch: Iterable[Delivered]) -> tuple[list[Record], list[Poison]]:
        now = self._clock.micros() // 1000
        records: list[Record] = []
        poison: list[Poison] = []
        for delivered in batch:
            if delivered.fault:
                poison.append(Poison(delivered.entry, delivered.raw, delivered.fault))
            records += [examine(place, payload, now, self._retention_millis) for place, payload in delivered.records]
        return records, poison

    async def _park_archived(self, records: list[Record]) -> list[Record]:
        days = {record.day for record in records if record.refusal is None and record.day is not None}
        archived = {day for day in days if not await self.open_day(day)}
        if not archived:
            return records
        refusal = Refusal(Fate.PARKED, "its day is archived")
        return [
            replace(record, refusal=refusal) if record.day in archived and record.refusal is None else record
            for record in records
        ]
