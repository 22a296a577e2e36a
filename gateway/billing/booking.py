"""Booking: events become rows of `usage_event`, and their quantities enter the hourly roll-ups, once.

A cancel takes back exactly the event it names (its amendments are events of their own), in the hours of that event,
and may come before it: what is left does not depend on the order. An amend adds its quantities in its own hour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Final, NamedTuple

import msgspec
from msgspec.structs import replace

from gateway.billing.database import Connection, Row, Unacceptable, Uuid
from gateway.billing.record import Fate, Record, Refusal, columns, day_of
from gateway.metering.event import UsageEvent

_HOUR_MICROS: Final = 3_600_000_000
_quantities_text = msgspec.json.Encoder().encode
_quantities_of = msgspec.json.Decoder(dict[str, int]).decode


class Booked(NamedTuple):
    """Ids of the events that are booked now and were not before, and the records that PostgreSQL will not take."""

    ids: set[Uuid]
    refused: list[Record]


async def book(connection: Connection, records: Sequence[Record]) -> Booked:
    """Books records of distinct events that have no refusal, within a transaction.

    A record that PostgreSQL will not take is found by halving: it is refused alone, the others are booked.
    """
    if not records:
        return Booked(set(), [])
    try:
        async with connection.atomic():
            return Booked(await _book_all(connection, records), [])
    except Unacceptable as error:
        if len(records) == 1:
            return Booked(set(), [replace(records[0], refusal=Refusal(Fate.DEAD_LETTER, str(error)))])
    middle = len(records) // 2
    first = await book(connection, records[:middle])
    second = await book(connection, records[middle:])
    return Booked(first.ids | second.ids, first.refused + second.refused)


async def _book_all(connection: Connection, records: Sequence[Record]) -> set[Uuid]:
    rows = await connection.rows("book_events", *_parameters(records))
    cancelled_before = {row["event_id"]: row["cancelled"] for row in rows}
    fresh = [record for record in records if record.event_id in cancelled_before]
    cancelled_now = await _note_cancels(connection, fresh)
    hours = _Hours()
    for record in fresh:
        event = _event(record)
        if not cancelled_before[record.event_id] and (record.event_id, event.organization) not in cancelled_now:
            hours.add(event.organization, event.key, event.route, event.kind, event.occurred_at, event.quantities)
    for row in await _booked_before(connection, cancelled_now, set(cancelled_before)):
        quantities = _quantities_of(row["quantities"])
        hours.add(row["organization"], row["key"], row["route"], row["kind"], row["occurred_at"], quantities, sign=-1)
    await hours.write(connection)
    return set(cancelled_before)


def _event(record: Record) -> UsageEvent:
    if record.event is None:
        raise ValueError(f"{record.place} has no event to book")
    return record.event


def _parameters(records: Sequence[Record]) -> list[list[object]]:
    """The parameters of `book_events`.

    What many events have in common is sent once, because asyncpg takes longer to pack a value than PostgreSQL to
    insert it.
    """
    places: dict[tuple[object, ...], int] = {}
    rows = []
    for record in records:
        event = _event(record)
        common = (
            record.day,
            record.place.segment,
            event.version,
            event.kind,
            event.organization,
            event.subscription,
            event.plan_version,
            event.key,
            event.route,
            event.upstream,
            event.provider,
            event.model,
            event.status,
            event.outcome,
        )
        rows.append(
            (
                places.setdefault(common, len(places) + 1),
                record.event_id,
                record.place.number,
                Uuid(event.ref) if event.ref is not None else None,
                event.admitted_at,
                event.occurred_at,
                _quantities_text(event.quantities).decode(),
                record.digest,
            )
        )
    return columns(rows) + columns(list(places))


async def _note_cancels(connection: Connection, fresh: Sequence[Record]) -> set[tuple[Uuid, str]]:
    """Events, with their organization, that these records cancel and that no record has cancelled before."""
    rows = [
        (Uuid(record.event.ref), record.event.organization, record.event_id)
        for record in fresh
        if record.event is not None and record.event.kind == "cancel"
    ]
    if not rows:
        return set()
    return {(row["ref"], row["organization"]) for row in await connection.rows("note_cancels", *columns(rows))}


async def _booked_before(connection: Connection, cancelled: set[tuple[Uuid, str]], fresh_ids: set[Uuid]) -> list[Row]:
    """The rows of cancelled events, of the organization that cancelled them, that were booked in earlier batches."""
    by_day: dict[date, list[Uuid]] = {}
    for event_id, _ in cancelled:
        day = day_of(event_id.bytes)
        if event_id not in fresh_ids and day is not None:
            by_day.setdefault(day, []).append(event_id)
    rows: list[Row] = []
    for day, ids in by_day.items():
        rows += await connection.rows("cancelled_events", day, ids)
    return [row for row in rows if (row["event_id"], row["organization"]) in cancelled]


class _Hours:
    """Changes to the roll-ups, gathered so that a batch touches each row once."""

    def __init__(self) -> None:
        self._changes: dict[tuple[str, str, str, str, int], list[int]] = {}

    def add(
        self,
        organization: str,
        key: str,
        route: str,
        kind: str,
        occurred_at: int,
        quantities: Mapping[str, int],
        sign: int = 1,
    ) -> None:
        """Counts an event in, or with sign -1 out. A cancel has nothing to count."""
        if kind == "cancel":
            return
        events = sign if kind == "usage" else 0
        hour = occurred_at // _HOUR_MICROS
        for meter, amount in quantities.items():
            change = self._changes.setdefault((organization, key, route, meter, hour), [0, 0])
            change[0] += sign * amount
            change[1] += events

    async def write(self, connection: Connection) -> None:
        """Adds the changes to the rows."""
        rows: list[tuple[Any, ...]] = [(*place, *change) for place, change in self._changes.items() if any(change)]
        if rows:
            await connection.run("add_to_hours", *columns(rows))
