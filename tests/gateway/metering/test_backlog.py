"""Closed segments: which are deleted, which are sent again, and what becomes of a file that is not what it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.metering.backlog import CARRY_AFTER_SECONDS, Backlog
from gateway.metering.event import encode_event
from gateway.metering.segment import FINAL, Segment, encode_record, survey
from gateway.metering.stream import GROUP, publish_counts, segment_name, stream_name
from gateway.metrics import Metrics
from gateway.stores.redis import Redis
from tests.fixtures.accountant import Accountant
from tests.gateway.metering.conftest import SHARDS, HandClock, MakeEvent

RESEND_AFTER = 10.0


@pytest.fixture
def backlog(redis: Redis, clock: HandClock, metrics: Metrics) -> Backlog:
    return Backlog(redis, node="n1", shards=SHARDS, resend_after=RESEND_AFTER, clock=clock, metrics=metrics)


@pytest.fixture
def accounting(redis: Redis) -> Accountant:
    """At work only when a test says so."""
    return Accountant(redis, shards=SHARDS)


@pytest.fixture
def make_segment(tmp_path: Path, make_event: MakeEvent) -> MakeSegment:
    return MakeSegment(tmp_path, make_event)


class MakeSegment:
    """Makes closed segments of `finals` events that were never sent."""

    def __init__(self, folder: Path, make_event: MakeEvent) -> None:
        self._folder = folder
        self._make_event = make_event
        self._made = 0

    def __call__(self, finals: int) -> Segment:
        events = [self._make_event(organization=f"org-{n}") for n in range(finals)]
        path = self._folder / f"{self._made:08d}.segment"
        path.write_bytes(b"".join(encode_record(FINAL, n, encode_event(event)) for n, event in enumerate(events)))
        segment = Segment(segment_name("n1", "b" * 16, self._made), path, path.stat().st_size)
        survey(segment, SHARDS)
        segment.unsent = True
        self._made += 1
        return segment


async def account(redis: Redis, segment: Segment, count: int) -> None:
    await publish_counts(redis, {(segment.name, min(segment.shards)): count})


async def length(redis: Redis) -> int:
    states = await redis.stream_states([stream_name(shard) for shard in range(SHARDS)], GROUP)
    return sum(state.length for state in states)


async def test_a_segment_is_deleted_only_when_every_final_is_accounted_for(
    backlog: Backlog, redis: Redis, make_segment: MakeSegment
) -> None:
    segment = make_segment(3)
    backlog.add(segment)
    await account(redis, segment, 2)
    await backlog.check()
    assert segment.path.exists()
    await account(redis, segment, 3)
    await backlog.check()
    assert not segment.path.exists()
    assert len(backlog) == 0


async def test_a_segment_waits_for_its_open_starts_and_for_those_it_ends(
    backlog: Backlog, redis: Redis, clock: HandClock, make_segment: MakeSegment
) -> None:
    first, second = make_segment(1), make_segment(1)
    first.starts = 1
    second.settles.add(first)
    for segment in (first, second):
        backlog.add(segment)
        await account(redis, segment, 1)
    await backlog.check()
    assert first.path.exists()
    assert second.path.exists(), "without it, adoption would take the start in the first for one without end"
    assert backlog.unaccounted == 0
    assert backlog.kept_for_starts() == []
    clock.now += CARRY_AFTER_SECONDS
    assert backlog.kept_for_starts() == [first]
    first.starts = 0
    await backlog.check()
    assert len(backlog) == 0


async def test_what_was_never_sent_is_sent_at_once_and_then_ever_more_rarely(
    backlog: Backlog, redis: Redis, clock: HandClock, accounting: Accountant, make_segment: MakeSegment
) -> None:
    backlog.add(make_segment(1200))
    await backlog.resend()
    await accounting.work()
    assert len(accounting.books) == 1200
    for wait in (RESEND_AFTER, 2 * RESEND_AFTER):
        # The books have it, and yet nobody says so: the store forgot the counts.
        await redis.hash_delete("usage.accounted.{n1}", list(await redis.hash_read("usage.accounted.{n1}")))
        clock.now += wait - 0.1
        await backlog.resend()
        assert await length(redis) == 0
        clock.now += 0.2
        await backlog.resend()
        assert await length(redis) > 0
        await accounting.work()
    assert accounting.replays == 2 * 1200
    await backlog.check()
    assert len(backlog) == 0


async def test_it_is_not_sent_again_while_it_waits_in_the_stream(
    backlog: Backlog, redis: Redis, clock: HandClock, make_segment: MakeSegment
) -> None:
    backlog.add(make_segment(10))
    await backlog.resend()
    sent = await length(redis)
    for _ in range(5):
        clock.now += 100 * RESEND_AFTER
        await backlog.resend()
    assert await length(redis) == sent


async def test_a_file_that_is_gone_is_reported_and_waited_for_no_longer(
    backlog: Backlog, make_segment: MakeSegment
) -> None:
    segment = make_segment(1)
    backlog.add(segment)
    segment.path.unlink()
    await backlog.resend()
    assert len(backlog) == 0
    assert backlog._damaged_total.value == 1


async def test_a_file_that_lost_records_is_reported_and_kept(
    backlog: Backlog, accounting: Accountant, make_segment: MakeSegment
) -> None:
    segment = make_segment(10)
    backlog.add(segment)
    content = bytearray(segment.path.read_bytes())
    content[-1] ^= 1
    segment.path.write_bytes(content)
    await backlog.resend()
    await accounting.work()
    await backlog.check()
    assert len(accounting.books) == 9
    assert segment.path.exists()
    assert backlog._damaged_total.value == 1


async def test_without_the_store_nothing_is_deleted(
    clock: HandClock, metrics: Metrics, make_segment: MakeSegment
) -> None:
    backlog = Backlog(
        Redis("redis://127.0.0.1:1/0"), node="n1", shards=SHARDS, resend_after=1.0, clock=clock, metrics=metrics
    )
    segment = make_segment(1)
    backlog.add(segment)
    await backlog.resend()
    await backlog.check()
    assert segment.path.exists()
    assert backlog._errors_total.value == 2
    assert backlog.oldest_at == segment.oldest_at


async def test_what_cannot_be_deleted_is_said_once_and_again_when_it_changes(
    backlog: Backlog, redis: Redis, make_segment: MakeSegment, caplog: pytest.LogCaptureFixture
) -> None:
    segment = make_segment(1)
    path = segment.path
    path.unlink()
    path.mkdir()  # what root cannot unlink either
    backlog.add(segment)
    await account(redis, segment, 1)
    for _ in range(3):
        await backlog.check()
    assert [record.getMessage() for record in caplog.records] == [
        f"cannot delete {path}, which is accounted for: Is a directory"
    ]
    path.rmdir()
    await backlog.check()
    assert len(backlog) == 0
    assert len(caplog.records) == 1
