"""Booking: events become rows of `usage_event`, and their quantities enter the hourly roll-ups, once.

A cancel takes back exactly the event it names (its amendments are events of their own), in the hours of that event,
and may come before it: what is left does not depend on the order. An amend adds its quantities in its own hour.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Final, NamedTuple, TypeAlias

import msgspec
from msgspec.structs import replace

from gateway.billing.database import Connection, Row, Taken, Unacceptable, Uuid
from gateway.billing.record import Fate, Record, Refusal, columns, day_of
from gateway.metering.event import UsageEvent

_HOUR_MICROS: Final = 3_600_000_000
_quantities_text = msgspec.json.Encoder().encode
_quantities_of = msgspec.json.Decoder(dict[str, int]).decode


Cancelled: TypeAlias = set[tuple[Uuid, str]]
"""Cancelled events: their ids, with the organization that cancelled them."""


class Booked(NamedTuple):
    """Records whose event is booked now and was not before; records that PostgreSQL will not take, with a refusal."""

    fresh: list[Record]
    refused: list[Record]


async def book(connection: Connection, records: list[Record], *, all_new: bool = True) -> Booked:
    """Books records of distinct events that have no refusal, within a transaction.

    It tries first as if all of them were new (`all_new`), which they usually are. A record that PostgreSQL will not
    take is found by halving: it is refused alone, the others are booked.
    """
    if not records:
        return Booked([], [])
    try:
        async with connection.atomic():
            return Booked(await _book_all(connection, records, all_new), [])
    except Taken:
        if not all_new:
            raise
        return await book(connection, records, all_new=False)
    except Unacceptable as error:
        if len(records) == 1:
            return Booked([], [replace(records[0], refusal=Refusal(Fate.DEAD_LETTER, str(error)))])
    middle = len(records) // 2
    first = await book(connection, records[:middle], all_new=all_new)
    second = await book(connection, records[middle:], all_new=all_new)
    return Booked(first.fresh + second.fresh, first.refused + second.refused)


async def _book_all(connection: Connection, records: list[Record], all_new: bool) -> list[Record]:
    query = "book_new_events" if all_new else "book_events"
    (outcome,) = await connection.rows(query, *_parameters(records))
    fresh = records
    if outcome["booked"] is not None:
        booked = set(outcome["booked"])
        fresh = [record for record in records if record.event_id in booked]
    cancelled = await _note_cancels(connection, fresh)
    hours = _Hours()
    hours.add_fresh(fresh, set(outcome["cancelled"]), cancelled)
    if cancelled:
        fresh_ids = {record.event_id for record in fresh}
        for row in await _rows_cancelled(connection, cancelled, fresh_ids):
            hours.take_out(row)
    await hours.write(connection)
    return fresh


def _event(record: Record) -> UsageEvent:
    if record.event is None:
        raise ValueError(f"{record.place} has no event to book")
    return record.event


def _parameters(records: Sequence[Record]) -> list[list[object]]:
    """The parameters of `book_new_events` and `book_events`.

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


async def _note_cancels(connection: Connection, fresh: Sequence[Record]) -> Cancelled:
    """The events that these records cancel and that no record has cancelled before."""
    rows = [
        (Uuid(record.event.ref), record.event.organization, record.event_id)
        for record in fresh
        if record.event is not None and record.event.kind == "cancel"
    ]
    if not rows:
        return set()
    return {(row["ref"], row["organization"]) for row in await connection.rows("note_cancels", *columns(rows))}


async def _rows_cancelled(connection: Connection, cancelled: Cancelled, fresh_ids: set[Uuid | None]) -> list[Row]:
    """The rows of cancelled events that were booked in earlier batches. Only the organization itself can cancel."""
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

    def add_fresh(self, records: Iterable[Record], cancelled_before: set[Uuid | None], cancelled: Cancelled) -> None:
        """Counts in what was booked just now, without what is cancelled already."""
        for record in records:
            event = _event(record)
            if event.kind == "cancel":
                continue
            if cancelled_before and record.event_id in cancelled_before:
                continue
            if cancelled and (record.event_id, event.organization) in cancelled:
                continue
            place = (event.organization, event.key, event.route)
            self._change(place, event.occurred_at, event.quantities, 1, int(event.kind == "usage"))

    def take_out(self, row: Row) -> None:
        """Counts out an event that was counted in before. A cancel was not, and is not brought back."""
        if row["kind"] != "cancel":
            place = (row["organization"], row["key"], row["route"])
            self._change(place, row["occurred_at"], _quantities_of(row["quantities"]), -1, -int(row["kind"] == "usage"))

    def _change(
        self, place: tuple[str, str, str], occurred_at: int, quantities: Mapping[str, int], sign: int, events: int
    ) -> None:
        hour = occurred_at // _HOUR_MICROS
        for meter, amount in quantities.items():
            change = self._changes.setdefault((*place, meter, hour), [0, 0])
            change[0] += sign * amount
            change[1] += events

    async def write(self, connection: Connection) -> None:
        """Adds the changes to the rows."""
        rows = [(*place, str(quantity), events) for place, (quantity, events) in self._changes.items()]
        if rows:
            await connection.run("add_to_hours", *columns(rows))
