"""The usage event as bytes: it comes back as it was, and what is no event breaks nobody who reads it."""

from __future__ import annotations

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.metering.event import (
    Frame,
    UsageEvent,
    decode_event,
    decode_frame,
    encode_event,
    encode_frame,
    shard_of,
)
from gateway.metering.segment import decode_payload, shard_of_payload
from tests.fixtures.usage import EVENTS

often = settings(max_examples=200, deadline=None, derandomize=True)
BYTES = st.binary(max_size=40)


class NewerEvent(UsageEvent, array_like=True, frozen=True, gc=False):
    """An event of a version to come: one field more, at the end."""

    region: str = ""


@often
@given(event=EVENTS)
def test_an_event_is_read_back_as_it_was(event: UsageEvent) -> None:
    assert decode_event(encode_event(event)) == event
    assert decode_payload(encode_event(event)) == event
    assert shard_of_payload(encode_event(event), 256) == shard_of(event.organization, 256)


@often
@given(event=EVENTS)
def test_an_event_is_an_array_of_its_fields_in_an_order_that_never_changes(event: UsageEvent) -> None:
    assert msgspec.msgpack.decode(encode_event(event)) == [
        event.version, event.event_id, event.kind, event.admitted_at, event.occurred_at, event.organization,
        event.subscription, event.plan_version, event.key, event.route, event.upstream, event.provider, event.model,
        event.status, event.outcome, event.quantities, event.ref,
    ]  # fmt: skip


@often
@given(event=EVENTS, region=st.text(max_size=5))
def test_versions_read_each_other(event: UsageEvent, region: str) -> None:
    """A field more at the end is passed over by those who do not know it, and has its default where it is missing."""
    fields = msgspec.structs.asdict(event)
    newer = NewerEvent(**fields, region=region)
    assert decode_event(encode_event(newer)) == event
    assert msgspec.msgpack.decode(encode_event(event), type=NewerEvent) == NewerEvent(**fields)


@often
@given(
    version=st.integers(1, 9),
    segment=st.text(max_size=40),
    records=st.lists(st.tuples(st.integers(0, 2**32), BYTES), max_size=20),
)
def test_a_frame_is_read_back_as_it_was(version: int, segment: str, records: list[tuple[int, bytes]]) -> None:
    frame = Frame(version, segment, [number for number, _ in records], [payload for _, payload in records])
    assert decode_frame(encode_frame(frame)) == frame


def nearly(event: UsageEvent, place: int, length: int, wrong: bytes) -> bytes:
    whole = encode_event(event)
    place %= len(whole)
    return whole[:place] + wrong + whole[place + length :]


@often
@given(payload=BYTES | st.builds(nearly, EVENTS, st.integers(0, 200), st.integers(0, 3), st.binary(max_size=3)))
def test_what_is_no_event_is_told_apart(payload: bytes) -> None:
    """It is an event, or it is not; nothing else comes of it, and nothing that could not be written again."""
    event = decode_payload(payload)
    assert event is None or decode_event(encode_event(event)) == event


@given(event=EVENTS)
@settings(often, max_examples=5)
def test_a_text_that_is_not_utf_8_is_no_event(event: UsageEvent) -> None:
    key = encode_event(msgspec.structs.replace(event, key="a key"))
    assert decode_payload(key.replace(b"a key", b"a \xffey")) is None


@often
@given(organization=st.text(), shards=st.integers(1, 1024))
@example("acme", 256)
def test_an_organization_has_one_shard(organization: str, shards: int) -> None:
    shard = shard_of(organization, shards)
    assert 0 <= shard < shards
    assert shard == shard_of(organization, shards)
    assert shard_of("acme", 256) == 62, "what is stored under a shard is found under it for good"
