"""A segment as it is written, through mapped memory: whatever becomes of the file, what is whole in it is read back."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.metering.event import UsageEvent, encode_event
from gateway.metering.segment import (
    FINAL,
    HEADER_SIZE,
    LARGEST_PAYLOAD,
    STARTED,
    UNNUMBERED,
    Record,
    Segment,
    SegmentReader,
    decode_payload,
    encode_record,
    repair,
    survey,
)
from tests.fixtures.usage import EVENTS

often = settings(max_examples=120, deadline=None, derandomize=True)
SIZE = 10_000
PAYLOADS = st.binary(min_size=1, max_size=60) | st.sampled_from([b"\0", b"\0" * 50, b"a" * LARGEST_PAYLOAD])
APPENDED = st.lists(st.tuples(st.sampled_from([FINAL, FINAL, STARTED]), PAYLOADS), max_size=12)
Appended = list[tuple[int, bytes]]


class Written:
    """A segment to which this was appended, as long as there was room."""

    def __init__(self, segment: Segment, appended: Appended) -> None:
        self.segment = segment
        self.records: list[Record] = []
        self.ends = [0]
        finals = 0
        for kind, payload in appended:
            end = self.ends[-1] + HEADER_SIZE + len(payload)
            assert segment.append(kind, payload) == (end <= SIZE)
            if end <= SIZE:
                self.records.append(Record(kind, finals if kind == FINAL else UNNUMBERED, payload))
                self.ends.append(end)
                finals += kind == FINAL
            assert (segment.position, segment.records, segment.finals) == (self.ends[-1], len(self.records), finals)

    def whole_before(self, place: int) -> int:
        """How many records end at or before this place."""
        return sum(end <= place for end in self.ends[1:])

    def read(self) -> tuple[list[Record], SegmentReader]:
        reader = SegmentReader(self.segment.path)
        return list(reader), reader


@contextmanager
def segments() -> Iterator[Segment]:
    """An open segment in a file that is gone afterwards."""
    with tempfile.TemporaryDirectory() as directory:
        segment = Segment("n/b/0", Path(directory) / "0.segment", SIZE)
        fd = os.open(segment.path, os.O_RDWR | os.O_CREAT)
        os.posix_fallocate(fd, 0, SIZE)
        segment.open(fd)
        yield segment
        segment.close()


@often
@given(appended=APPENDED, more=APPENDED)
def test_what_was_appended_is_read_at_any_time(appended: Appended, more: Appended) -> None:
    """While it is open, by another descriptor, and after it was closed; then it also says what it was."""
    with segments() as segment:
        before = Written(segment, appended)
        found, reader = before.read()
        assert found == before.records
        assert (reader.position, reader.finals, reader.damaged) == (segment.position, segment.finals, False)
        for kind, payload in more:
            if segment.append(kind, payload):
                before.records.append(Record(kind, segment.finals - 1 if kind == FINAL else UNNUMBERED, payload))
        os.ftruncate(segment.fd, segment.position)
        segment.close()
        found, reader = before.read()
        assert found == before.records
        known = Segment("n/b/0", segment.path, SIZE)
        survey(known, 4)
        assert (known.position, known.finals) == (segment.position, segment.finals)


@often
@given(appended=APPENDED, beyond=st.integers(-1, 1))
def test_the_last_byte_is_written_and_none_behind_it(appended: Appended, beyond: int) -> None:
    with segments() as segment:
        written = Written(segment, [*appended, *[(FINAL, b"a" * LARGEST_PAYLOAD)] * 3])
        payload = b"b" * (SIZE - segment.position - HEADER_SIZE + beyond)
        if not 0 < len(payload) <= LARGEST_PAYLOAD:
            return
        assert segment.append(STARTED, payload) == (beyond <= 0)
        fits = [Record(STARTED, UNNUMBERED, payload)] if beyond <= 0 else []
        assert written.read()[0] == [*written.records, *fits]


@often
@given(appended=APPENDED, cut=st.integers(0, SIZE), room=st.integers(0, 300))
def test_a_file_cut_anywhere_gives_the_whole_records_before_the_cut(appended: Appended, cut: int, room: int) -> None:
    """Also if space follows: of a record that ends in zeros, zeros may be missing."""
    with segments() as segment:
        written = Written(segment, appended)
        place = cut % (segment.position + 1)
        os.truncate(segment.path, place)
        os.truncate(segment.path, place + room)
        found, reader = written.read()
        whole = written.whole_before(place)
        assert found == written.records[: len(found)]
        assert len(found) >= whole
        if len(found) > whole:
            record = written.records[whole]
            assert len(found) == whole + 1
            assert not encode_record(*record)[place - written.ends[whole] :].strip(b"\0")
        assert reader.position == written.ends[len(found)]


@often
@given(appended=APPENDED, last=PAYLOADS, arrived=st.sets(st.integers(0, HEADER_SIZE + 59)), finals=st.booleans())
def test_a_record_cut_short_by_the_death_of_its_writer_costs_no_other(
    appended: Appended, last: bytes, arrived: set[int], finals: bool
) -> None:
    """Any of its bytes may have reached the memory: it is there whole, or it is not there."""
    with segments() as segment:
        written = Written(segment, appended)
        torn = encode_record(FINAL, segment.finals, last) if finals else encode_record(STARTED, UNNUMBERED, last)
        if segment.position + len(torn) > SIZE:
            return
        assert segment.memory is not None
        for place in arrived:
            if place < len(torn):
                segment.memory[segment.position + place] = torn[place]
        there = segment.memory[segment.position : segment.position + len(torn)] == torn
        found, reader = written.read()
        assert found[: len(written.records)] == written.records
        assert len(found) == len(written.records) + there
        assert reader.damaged == (not there and bool({torn[place] for place in arrived if place < len(torn)} - {0}))
        known = Segment("n/b/0", segment.path, SIZE)
        survey(known, 4)
        repair(known)
        assert written.read()[0] == found
        assert segment.path.stat().st_size == written.ends[-1] + there * len(torn)


@often
@given(
    appended=APPENDED.filter(bool),
    place=st.integers(0, SIZE),
    damage=st.binary(min_size=1, max_size=30) | st.integers(1, 40).map(bytes),
    kind=st.sampled_from(["noise", "a piece of the segment", "another record"]),
)
def test_damage_anywhere_costs_what_follows_it_and_invents_nothing(
    appended: Appended, place: int, damage: bytes, kind: str
) -> None:
    """It may be a whole record in the place of another: no final counts twice, or before those that came before it."""
    with segments() as segment:
        written = Written(segment, appended)
        memory = segment.memory
        assert memory is not None
        at = place % segment.position
        if kind == "a piece of the segment":
            damage = memory[: len(damage)]
        elif kind == "another record":
            at = written.ends[place % len(written.records)]
            damage = encode_record(*written.records[len(damage) % len(written.records)])
        damage = damage[: SIZE - at]
        same = memory[at : at + len(damage)] == damage
        memory[at : at + len(damage)] = damage
        found, reader = written.read()
        before = written.whole_before(at)
        assert found[:before] == written.records[:before]
        if same:
            assert found == written.records
        elif kind == "noise":
            assert found == written.records[: len(found)]
            assert len(found) < len(written.records)
        finals = [record for record in written.records if record.kind == FINAL]
        assert [record for record in found if record.kind == FINAL] == finals[: reader.finals]
        assert all(record in written.records for record in found)


@often
@given(events=st.lists(st.tuples(st.sampled_from([STARTED, FINAL]), EVENTS), max_size=8))
def test_events_go_through_a_segment_unchanged(events: list[tuple[int, UsageEvent]]) -> None:
    with segments() as segment:
        for kind, event in events:
            segment.append(kind, encode_event(event))
        found = [(record.kind, decode_payload(record.payload)) for record in SegmentReader(segment.path)]
        assert found == events
        known = Segment("n/b/0", segment.path, SIZE)
        starts = survey(known, 4)
        assert set(starts) == {event.event_id for kind, event in events if kind == STARTED}
        times = [event.admitted_at if kind == STARTED else event.occurred_at for kind, event in events]
        assert known.oldest_at == min(times, default=None)
