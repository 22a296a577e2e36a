from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.metering.event import encode_event
from gateway.metering.segment import (
    FINAL,
    LARGEST_PAYLOAD,
    LARGEST_RECORD,
    STARTED,
    UNNUMBERED,
    Record,
    Segment,
    SegmentReader,
    encode_record,
    first_admitted_at,
    repair,
    settled,
    survey,
)
from tests.gateway.metering.conftest import MakeEvent

payloads = st.lists(st.tuples(st.booleans(), st.binary(min_size=1, max_size=300)), min_size=1, max_size=12)
anyhow = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)


def written(contents: list[tuple[bool, bytes]]) -> tuple[list[Record], list[bytes]]:
    records, finals = [], 0
    for final, payload in contents:
        records.append(Record(FINAL, finals, payload) if final else Record(STARTED, UNNUMBERED, payload))
        finals += final
    return records, [encode_record(*record) for record in records]


def read(path: Path) -> tuple[list[Record], SegmentReader]:
    reader = SegmentReader(path)
    return list(reader), reader


@anyhow
@given(contents=payloads, unused=st.integers(0, 600))
def test_what_is_written_is_read_and_unused_space_ends_it(
    tmp_path: Path, contents: list[tuple[bool, bytes]], unused: int
) -> None:
    records, encoded = written(contents)
    path = tmp_path / "segment"
    path.write_bytes(b"".join(encoded) + bytes(unused))
    found, reader = read(path)
    assert found == records
    assert (reader.position, reader.damaged) == (sum(map(len, encoded)), False)
    assert reader.finals == sum(final for final, _ in contents)


@anyhow
@given(contents=payloads, data=st.data(), unused=st.integers(0, 40))
def test_a_tail_torn_at_any_byte_costs_only_the_torn_record(
    tmp_path: Path, contents: list[tuple[bool, bytes]], data: st.DataObject, unused: int
) -> None:
    records, encoded = written(contents)
    cut = data.draw(st.integers(0, len(encoded[-1]) - 1))
    path = tmp_path / "segment"
    path.write_bytes(b"".join(encoded[:-1]) + encoded[-1][:cut] + bytes(unused))
    whole = [*encoded[:-1]]
    # A record of which only zeros are missing is whole: the space it was written into holds them.
    if encoded[-1][cut:].strip(b"\0") == b"" and len(encoded[-1]) - cut <= unused:
        whole = encoded
    found, reader = read(path)
    assert found == records[: len(whole)]
    assert reader.position == sum(map(len, whole))

    segment = Segment("n/b/0", path, 0)
    segment.position = reader.position
    repair(segment)
    assert path.read_bytes() == b"".join(whole)
    assert not path.with_suffix(".damaged").exists()


@anyhow
@given(contents=payloads, data=st.data())
def test_a_flipped_bit_is_found_and_the_records_before_it_are_kept(
    tmp_path: Path, contents: list[tuple[bool, bytes]], data: st.DataObject
) -> None:
    records, encoded = written(contents)
    place = data.draw(st.integers(0, sum(map(len, encoded)) - 1))
    content = bytearray(b"".join(encoded))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "segment"
    path.write_bytes(content)
    found, reader = read(path)
    intact, end = 0, 0
    while end + len(encoded[intact]) <= place:
        end += len(encoded[intact])
        intact += 1
    assert found == records[:intact]
    assert reader.position == end
    assert reader.damaged == bool(bytes(content[end:]).strip(b"\0"))


def test_finals_are_numbered_without_gaps(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    path.write_bytes(encode_record(FINAL, 0, b"a") + encode_record(FINAL, 2, b"c"))
    found, reader = read(path)
    assert [record.payload for record in found] == [b"a"]
    assert reader.damaged


def test_records_cross_the_chunks_they_are_read_in(tmp_path: Path) -> None:
    encoded = [encode_record(FINAL, number, bytes([number % 251]) * LARGEST_PAYLOAD) for number in range(200)]
    path = tmp_path / "segment"
    path.write_bytes(b"".join(encoded))
    assert len(encoded[0]) == LARGEST_RECORD
    found, _ = read(path)
    assert [record.payload[0] for record in found] == [number % 251 for number in range(200)]


def test_a_survey_tells_what_is_in_a_segment(tmp_path: Path, make_event: MakeEvent) -> None:
    begun = make_event(admitted_at=500)
    ended = make_event(admitted_at=700, occurred_at=900, organization="other")
    path = tmp_path / "0.segment"
    path.write_bytes(
        encode_record(STARTED, UNNUMBERED, encode_event(begun))
        + encode_record(FINAL, 0, encode_event(ended))
        + encode_record(FINAL, 1, b"\xff not an event")
        + bytes(1000)
    )
    segment = Segment("n/b/0", path, 0)
    assert survey(segment, 256) == {begun.event_id: encode_event(begun)}
    assert (segment.finals, segment.oldest_at) == (2, 500)
    assert 0 in segment.shards, "what cannot be read goes to the first shard"
    assert len(segment.shards) == 2
    assert settled(segment, {begun.event_id, ended.event_id}) == [ended.event_id]
    assert first_admitted_at(path) == 500


def test_more_damage_than_one_torn_record_is_kept_aside(tmp_path: Path) -> None:
    path = tmp_path / "0.segment"
    whole = encode_record(FINAL, 0, b"whole")
    rest = os.urandom(LARGEST_RECORD + 1) + b"!"
    path.write_bytes(whole + rest + bytes(50))
    segment = Segment("n/b/0", path, 0)
    survey(segment, 1)
    assert repair(segment) == len(rest)
    assert path.read_bytes() == whole
    assert path.with_suffix(".damaged").read_bytes() == rest


def test_an_empty_file_and_a_missing_one(tmp_path: Path) -> None:
    path = tmp_path / "0.segment"
    path.touch()
    assert read(path)[0] == []
    assert first_admitted_at(path) is None
    with pytest.raises(FileNotFoundError):
        list(SegmentReader(tmp_path / "none"))
