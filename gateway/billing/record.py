"""Record: one final record of a segment as it arrives from a stream, examined before any of it is written.

Plain functions without I/O: what a frame holds, whether a record can be booked, and what a record is in the light of
the event that is booked under its id.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import date
from enum import StrEnum
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

from gateway.billing.database import Row, Uuid
from gateway.clock import uuid7_millis
from gateway.metering.event import VERSION, UsageEvent, decode_event, decode_frame

_SEGMENT: Final = re.compile(r"([0-9A-Za-z_.-]{1,64})/([0-9a-f]{16})/(\d{8,12})")
_DAY_MILLIS: Final = 86_400_000
_EPOCH: Final = date(1970, 1, 1).toordinal()
_LAST_DAY: Final = date.max.toordinal()
_AHEAD_MILLIS: Final = 5 * 60 * 1000
"""How far ahead of the worker's clock an event may be before it is parked: 5 minutes."""
_END_OF_TIME: Final = 253_402_300_800_000_000
"""The first microsecond of the year 10000, which neither a report nor an invoice could write."""
_LARGEST: Final = 2**63 - 1


class Fate(StrEnum):
    """What becomes of a record. All but REPLAY are first-time fates: a record gets exactly one, and is counted once."""

    BOOKED = "booked"
    """A row of its own in `usage_event`."""
    DUPLICATE = "duplicate"
    """Another record of a booked event."""
    CONFLICT = "conflict"
    """The id of a booked event, but saying something else."""
    DEAD_LETTER = "dead_letter"
    """Can never be booked."""
    PARKED = "parked"
    """Out of reach for now: too old, archived, or ahead of the clock."""
    REPLAY = "replay"
    """Had its fate before."""


class Place(NamedTuple):
    """Where a record stands: its number among the final records of its segment."""

    segment: str
    number: int


class Refusal(NamedTuple):
    """Why a record is not to be booked."""

    fate: Fate
    reason: str


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record. `event`, `event_id` and `day` are None where they cannot be read from the payload."""

    place: Place
    payload: bytes
    digest: bytes
    event: UsageEvent | None = None
    event_id: Uuid | None = None
    day: date | None = None
    refusal: Refusal | None = None


class Poison(NamedTuple):
    """What a stream held that is no record of a segment, or no longer one: the raw bytes, and what is wrong."""

    entry: str
    raw: bytes
    reason: str


class Delivered(NamedTuple):
    """An entry of a stream, unpacked: its records with their places, or what is wrong with it."""

    entry: str
    raw: bytes
    records: list[tuple[Place, bytes]]
    fault: str = ""


def unpack(entry: str, raw: bytes) -> Delivered:
    """Unpacks the frame of a stream entry."""
    try:
        frame = decode_frame(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Delivered(entry, raw, [], f"no frame: {error}")
    fault = ""
    if frame.version != VERSION:
        fault = f"frame version {frame.version} is not known here"
    elif _SEGMENT.fullmatch(frame.segment) is None:
        fault = f"not the name of a segment: {frame.segment[:100]!r}"
    elif len(frame.numbers) != len(frame.events):
        fault = f"{len(frame.numbers)} numbers for {len(frame.events)} events"
    elif not all(0 <= number < 2**31 for number in frame.numbers):
        fault = "a number is out of range"
    if fault:
        return Delivered(entry, raw, [], fault)
    segment = frame.segment
    places = [Place(segment, number) for number in frame.numbers]
    return Delivered(entry, raw, list(zip(places, frame.events, strict=True)))


def _fault(event: UsageEvent) -> str | None:
    """Why an event that could be decoded can still not be booked; what only PostgreSQL knows, it says itself."""
    if event.version != VERSION:
        return f"event version {event.version} is not known here"
    if len(event.event_id) != 16 or event.event_id[6] >> 4 != 7:
        return "the event id is not a UUIDv7"
    if (event.ref is None) != (event.kind == "usage") or (event.ref is not None and len(event.ref) != 16):
        return f"a {event.kind} event with {'no' if event.ref is None else 'a'} valid ref"
    if not (0 <= event.admitted_at < _END_OF_TIME and 0 <= event.occurred_at < _END_OF_TIME):
        return "a time is out of range"
    lowest = -_LARGEST if event.kind == "amend" else 0
    for meter, amount in event.quantities.items():
        if not lowest <= amount <= _LARGEST:
            return f"quantity out of range: {meter[:100]!r} {amount}"
    return None


def examine(place: Place, payload: bytes, now_millis: int, retention_millis: int) -> Record:
    """The record of a payload. Its refusal says why it is not to be booked, as far as that can be seen from here."""
    digest = sha256(payload).digest()
    try:
        event = decode_event(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Record(place, payload, digest, refusal=Refusal(Fate.DEAD_LETTER, f"no usage event: {error}"))
    fault = _fault(event)
    if len(event.event_id) != 16:
        return Record(place, payload, digest, refusal=Refusal(Fate.DEAD_LETTER, fault or ""))
    age = now_millis - uuid7_millis(event.event_id)
    refusal = None
    if fault is not None:
        refusal = Refusal(Fate.DEAD_LETTER, fault)
    elif age < -_AHEAD_MILLIS:
        refusal = Refusal(Fate.PARKED, "more than 5 minutes ahead of the clock")
    elif age > retention_millis:
        refusal = Refusal(Fate.PARKED, "older than retention")
    return Record(place, payload, digest, event, Uuid(event.event_id), day_of(event.event_id), refusal)


def day_of(event_id: bytes) -> date | None:
    """The UTC day of a UUIDv7; None beyond the year 9999."""
    ordinal = _EPOCH + uuid7_millis(event_id) // _DAY_MILLIS
    return date.fromordinal(ordinal) if ordinal <= _LAST_DAY else None


def judge(record: Record, booked: Row | None) -> Fate | None:
    """What a record that was not booked is, given the booked row of its id, if there is one.

    None if it has no place in its segment: that row has its place but says something else, or another event has it.
    """
    if booked is None:
        return record.refusal.fate if record.refusal is not None else None
    same = bool(booked["payload_hash"] == record.digest)
    if booked["segment"] == record.place.segment and booked["number"] == record.place.number:
        return Fate.REPLAY if same else None
    return Fate.DUPLICATE if same else Fate.CONFLICT


def stretches(places: Iterable[Place]) -> tuple[list[str], list[int], list[int]]:
    """Segments, and the lowest and highest number of each."""
    ranges: dict[str, tuple[int, int]] = {}
    for segment, number in places:
        low, high = ranges.get(segment, (number, number))
        ranges[segment] = (min(low, number), max(high, number))
    return list(ranges), [low for low, _ in ranges.values()], [high for _, high in ranges.values()]


def columns(rows: Sequence[tuple[object, ...]]) -> list[list[object]]:
    """At least one row turned into columns, as `unnest` takes them."""
    return [list(column) for column in zip(*rows, strict=True)]
