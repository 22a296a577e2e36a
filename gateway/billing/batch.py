"""Batch: the records of one transaction on one shard, and how each comes to its fate.

The order inside the transaction: lock of the shard, fates set aside before, booking, other fates, and last the counts.
Under the lock nothing else of this shard happens, so that what is looked up stays true until the commit.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import date
from hashlib import sha256
from typing import Any, Final, NamedTuple

from gateway.billing.booking import book
from gateway.billing.database import Connection, Row, Uuid
from gateway.billing.record import Fate, Place, Poison, Record, columns, judge, stretches

_log = logging.getLogger(__name__)


class Accounted(NamedTuple):
    """What a batch came to. `counts`: for each segment in it, first-time fates of this shard over all time."""

    counts: dict[str, int]
    fates: Counter[Fate]
    poison: int


class Batch:
    """One transaction's work. Used once."""

    def __init__(self, connection: Connection, shard: int) -> None:
        self._connection = connection
        self._shard = shard
        self._poison: list[Poison] = []
        self._fates: Counter[Fate] = Counter()
        self._first_time: Counter[str] = Counter()

    async def account(self, records: list[Record], poison: Iterable[Poison]) -> Accounted:
        """Gives every record its fate. Raises DatabaseUnavailable or Retry: the transaction is to be rolled back."""
        await self._connection.run("lock_shard", self._shard)
        self._poison += poison
        for record in records:
            self._first_time[record.place.segment] += 0  # counted even if all are replays: see count_records
        waiting = await self._without_known(self._without_repeated(records))
        while waiting:
            # Of records with the same id the first goes first; what the others are depends on what it comes to.
            turn, waiting = _first_of_each(waiting)
            await self._settle(turn)
        poisoned = await self._keep_poison()
        return Accounted(await self._count(), self._fates, poisoned)

    def _without_repeated(self, records: Iterable[Record]) -> dict[Place, Record]:
        first: dict[Place, Record] = {}
        for record in records:
            before = first.setdefault(record.place, record)
            if before is not record:
                self._pass_over(record, before.digest)
        return first

    async def _without_known(self, records: dict[Place, Record]) -> list[Record]:
        """Leaves out what was set aside before: whatever the reason was, that stays its fate."""
        for row in await self._connection.rows("known_aside", *stretches(records)):
            record = records.pop(Place(row["segment"], row["number"]), None)
            if record is not None:
                self._pass_over(record, row["payload_hash"])
        return list(records.values())

    def _pass_over(self, record: Record, known_digest: bytes) -> None:
        """A record whose place has its fate: a replay, or something that has no place in its segment."""
        if record.digest == known_digest:
            self._fates[Fate.REPLAY] += 1
        else:
            self._misplaced(record)

    def _misplaced(self, record: Record) -> None:
        segment, number = record.place
        self._poison.append(Poison(f"{segment}#{number}", record.payload, "its place is taken by another record"))

    async def _settle(self, records: list[Record]) -> None:
        """Gives a fate to records of distinct events."""
        booked = await book(self._connection, [record for record in records if record.refusal is None])
        self._first_time.update(record.place.segment for record in booked.fresh)
        self._fates[Fate.BOOKED] += len(booked.fresh)
        if len(booked.fresh) == len(records):
            return
        done = {record.place for record in booked.fresh}
        refused = {record.place: record for record in booked.refused}
        rest = [refused.get(record.place, record) for record in records if record.place not in done]
        rows = await self._booked_rows(rest)
        aside: dict[Fate, list[Record]] = {}
        for record in rest:
            fate = judge(record, rows.get(record.event_id))
            if fate is None:
                self._misplaced(record)
            elif fate is Fate.REPLAY:
                self._fates[fate] += 1
            else:
                aside.setdefault(fate, []).append(record)
        for fate, those in aside.items():
            await self._set_aside(fate, await self._without_booked_places(those))

    async def _booked_rows(self, records: Iterable[Record]) -> dict[Uuid | None, Row]:
        """Booked rows with the ids of these records."""
        by_day: dict[date, list[Uuid]] = {}
        for record in records:
            if record.day is not None and record.event_id is not None:
                by_day.setdefault(record.day, []).append(record.event_id)
        rows: dict[Uuid | None, Row] = {}
        for day, ids in by_day.items():
            rows |= {row["event_id"]: row for row in await self._connection.rows("booked_by_id", day, ids)}
        return rows

    async def _without_booked_places(self, records: list[Record]) -> list[Record]:
        """Leaves out records whose place another event has: only a damaged sender makes such."""
        places = columns([record.place for record in records])
        rows = await self._connection.rows("booked_places", *places)
        booked = {Place(row["segment"], row["number"]) for row in rows}
        for record in records:
            if record.place in booked:
                self._misplaced(record)
        return [record for record in records if record.place not in booked]

    async def _set_aside(self, fate: Fate, records: list[Record]) -> None:
        if not records:
            return
        query, row_of = _ASIDE[fate]
        rows = [row_of(record) for record in records]
        new = await self._connection.rows(query, self._shard, *columns(rows))
        for row in new:
            self._first_time[row["segment"]] += 1
        self._fates[fate] += len(new)
        self._fates[Fate.REPLAY] += len(records) - len(new)  # another shard had it: the number of shards was changed
        if fate in (Fate.CONFLICT, Fate.DEAD_LETTER):
            for record in records:
                _log.error("%s: record %d of segment %s is set aside", fate, record.place.number, record.place.segment)

    async def _keep_poison(self) -> int:
        """Keeps what no segment can account for. Returns how much of it was new."""
        if not self._poison:
            return 0
        rows = [(poison.entry, sha256(poison.raw).digest(), poison.reason, poison.raw) for poison in self._poison]
        new = await self._connection.rows("add_poison", self._shard, *columns(rows))
        for row in new:
            _log.error("shard %d: %s is set aside: no segment can account for it", self._shard, row["entry"])
        return len(new)

    async def _count(self) -> dict[str, int]:
        if not self._first_time:
            return {}
        rows = await self._connection.rows("count_records", self._shard, *columns(list(self._first_time.items())))
        return {row["segment"]: row["records"] for row in rows}


def _first_of_each(records: list[Record]) -> tuple[list[Record], list[Record]]:
    """The first record of each event, and the others."""
    turn: dict[bytes | Place, Record] = {}
    others = []
    for record in records:
        name = record.place if record.event is None or record.event_id is None else record.event.event_id
        if turn.setdefault(name, record) is not record:
            others.append(record)
    return list(turn.values()), others


def _duplicate(record: Record) -> tuple[Any, ...]:
    return (*record.place, record.day, record.event_id, record.digest)


def _conflict(record: Record) -> tuple[Any, ...]:
    return (*record.place, record.day, record.event_id, record.payload, record.digest)


def _dead_letter(record: Record) -> tuple[Any, ...]:
    return (*record.place, _reason(record), record.payload, record.digest)


def _parked(record: Record) -> tuple[Any, ...]:
    return (*record.place, _reason(record), record.day, record.event_id, record.payload, record.digest)


def _reason(record: Record) -> str:
    # PostgreSQL takes any text but this character, and a reason may quote the record.
    return (record.refusal.reason if record.refusal else "").replace("\0", "\\0")


_ASIDE: Final[dict[Fate, tuple[str, Callable[[Record], tuple[Any, ...]]]]] = {
    Fate.DUPLICATE: ("add_duplicates", _duplicate),
    Fate.CONFLICT: ("add_conflicts", _conflict),
    Fate.DEAD_LETTER: ("add_dead_letters", _dead_letter),
    Fate.PARKED: ("add_parked", _parked),
}
