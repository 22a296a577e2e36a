"""The whole edge half against a real Valkey: whatever happens to the store, every event gets into the books once."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from gateway.clock import Clock
from gateway.metering.directory import JournalUnusable
from gateway.metering.event import UsageEvent
from gateway.metering.stream import NODES, accounted_key, stream_name
from gateway.metering.usage import Usage, UsageOptions
from gateway.metrics import Metrics
from gateway.stores.redis import Redis
from tests.fixtures.accountant import Accountant
from tests.fixtures.valkey import ValkeyServer
from tests.gateway.metering.conftest import SHARDS, MakeEvent, segments_on_disk, until

MakeUsage: TypeAlias = Callable[[], Usage]


@pytest.fixture
async def make_usage(options: UsageOptions, redis: Redis, metrics: Metrics) -> AsyncIterator[MakeUsage]:
    made = []

    def make() -> Usage:
        made.append(Usage(options, redis=redis, clock=Clock(), metrics=metrics))
        return made[-1]

    yield make
    for usage in made:
        await usage._background.stop()  # where the test failed before it stopped


def write(usage: Usage, event: UsageEvent) -> UsageEvent:
    usage.journal.reserve()
    usage.journal.append(event)
    return event


def ids(events: list[UsageEvent]) -> list[bytes]:
    return sorted(event.event_id for event in events)


async def test_events_get_into_the_books_and_the_journal_is_empty_again(
    make_usage: MakeUsage, options: UsageOptions, accountant: Accountant, make_event: MakeEvent, redis: Redis
) -> None:
    usage = make_usage()
    await usage.start()
    events = [write(usage, make_event(organization=f"org-{n % 9}")) for n in range(2000)]
    await until(lambda: len(accountant.books) == 2000)
    assert ids(accountant.events) == ids(events)
    await until(lambda: len(usage.backlog) == 0)
    assert accountant.replays == 0
    await usage.stop(1.0)
    assert segments_on_disk(options) == []
    assert usage.directory.boots() == []
    assert await redis.hash_read(accounted_key(usage.node)) == {}


async def test_an_idle_process_deletes_what_it_wrote(
    make_usage: MakeUsage, options: UsageOptions, accountant: Accountant, make_event: MakeEvent
) -> None:
    usage = make_usage()
    await usage.start()
    write(usage, make_event())
    written = usage.journal._writer.segment.path  # there may be a spare one beside it
    assert written in segments_on_disk(options)
    await until(lambda: not written.exists())
    await usage.stop(1.0)


async def test_stopping_sends_what_is_left_and_waits_until_it_is_accounted_for(
    make_usage: MakeUsage, options: UsageOptions, accountant: Accountant, make_event: MakeEvent
) -> None:
    usage = make_usage()
    await usage.start()
    events = [write(usage, make_event()) for _ in range(10)]
    await usage.stop(5.0)
    assert ids(accountant.events) == ids(events)
    assert segments_on_disk(options) == []


async def test_without_a_store_it_starts_serves_and_stops_and_leaves_everything_on_disk(
    options: UsageOptions, metrics: Metrics, make_event: MakeEvent
) -> None:
    redis = Redis("redis://127.0.0.1:1/0")
    usage = Usage(options, redis=redis, clock=Clock(), metrics=metrics)
    await usage.start()
    for _ in range(500):
        write(usage, make_event())
    await asyncio.sleep(0.3)
    started = time.monotonic()
    await usage.stop(5.0)
    assert time.monotonic() - started < 1.0, "there is nobody to wait for"
    assert segments_on_disk(options)
    assert usage.directory.adopt(usage.boot) is not None


async def test_a_journal_that_cannot_be_used_is_told_at_once(
    options: UsageOptions, redis: Redis, metrics: Metrics, tmp_path: Path
) -> None:
    os.mknod(tmp_path / "journal")
    with pytest.raises(JournalUnusable):
        Usage(options, redis=redis, clock=Clock(), metrics=metrics)


@pytest.mark.parametrize("trouble", ["flush", "kill", "pause"])
async def test_nothing_is_lost_when_the_store_is(
    make_usage: MakeUsage, valkey: ValkeyServer, accountant: Accountant, make_event: MakeEvent, trouble: str
) -> None:
    usage = make_usage()
    await usage.start()
    events = []
    for turn in range(60):
        events += [write(usage, make_event(organization=f"org-{n}")) for n in range(20)]
        await asyncio.sleep(0.01)
        if turn % 20 == 10:
            if trouble == "flush":
                valkey.flush()
            elif trouble == "kill":
                valkey.kill()
                valkey.start()
            else:
                valkey.pause()
                await asyncio.sleep(0.3)
                valkey.resume()
    await until(lambda: len(accountant.times_booked()) == len(events))
    assert ids(accountant.events) == ids(events), "each once"
    await until(lambda: len(usage.backlog) == 0)
    await usage.stop(1.0)


async def test_a_flush_between_append_and_read_is_healed_by_sending_again(
    make_usage: MakeUsage, valkey: ValkeyServer, redis: Redis, make_event: MakeEvent, options: UsageOptions
) -> None:
    """The control for the test above: without anybody reading, every event is gone with the flush."""
    usage = make_usage()
    await usage.start()
    events = [write(usage, make_event()) for _ in range(50)]
    await until(lambda: not usage._shipper._bytes)
    valkey.flush()
    accountant = Accountant(redis, shards=SHARDS)
    assert not await accountant.work(), "lost, as far as the store goes"
    work = asyncio.create_task(accountant.run())
    await until(lambda: len(accountant.books) == 50)
    assert ids(accountant.events) == ids(events)
    work.cancel()
    await asyncio.wait([work])
    await usage.stop(1.0)


async def test_a_worker_that_is_behind_is_not_buried(
    make_usage: MakeUsage, redis: Redis, make_event: MakeEvent, options: UsageOptions
) -> None:
    usage = make_usage()
    await usage.start()
    events = [write(usage, make_event(organization=f"org-{n}")) for n in range(50)]
    await asyncio.sleep(options.resend_after + 2.0)
    state = await redis.stream_states([stream_name(shard) for shard in range(SHARDS)], "billing")
    assert sum(each.length for each in state) <= SHARDS, "sent once, although nobody reads"
    accountant = Accountant(redis, shards=SHARDS)
    await accountant.work()
    assert ids(accountant.events) == ids(events)
    assert accountant.replays == 0
    await usage.stop(2.0)
    assert segments_on_disk(options) == []


async def test_counts_that_were_lost_are_published_again(
    make_usage: MakeUsage, redis: Redis, make_event: MakeEvent, accountant: Accountant
) -> None:
    usage = make_usage()
    await usage.start()
    write(usage, make_event())
    await until(lambda: len(accountant.books) == 1)
    await redis.hash_delete(accounted_key(usage.node), list(await redis.hash_read(accounted_key(usage.node))))
    await until(lambda: len(usage.backlog) == 1)
    await until(lambda: len(usage.backlog) == 0)
    assert accountant.replays == 1
    await usage.stop(1.0)


async def test_memory_is_bounded_while_the_store_is_slow_and_the_rest_comes_from_the_file(
    make_usage: MakeUsage, valkey: ValkeyServer, accountant: Accountant, make_event: MakeEvent
) -> None:
    usage = make_usage()
    usage._shipper._memory_limit = 20_000
    await usage.start()
    valkey.pause()
    events = []
    for _ in range(40):
        events += [write(usage, make_event(organization=f"org-{n}")) for n in range(25)]
        await asyncio.sleep(0.01)
        assert usage._shipper._bytes <= 20_000
    assert usage._shipper._dropped_total.value > 0
    valkey.resume()
    await until(lambda: len(accountant.times_booked()) == len(events))
    assert ids(accountant.events) == ids(events)
    await until(lambda: len(usage.backlog) == 0)
    await usage.stop(1.0)


async def test_with_sync_disk_nothing_is_sent_that_could_still_be_lost(
    options: UsageOptions, redis: Redis, metrics: Metrics, accountant: Accountant, make_event: MakeEvent
) -> None:
    durable = options.model_copy(update={"journal": options.journal.model_copy(update={"sync": "disk"})})
    usage = Usage(durable, redis=redis, clock=Clock(), metrics=metrics)
    await usage.start()
    events = [make_event() for _ in range(300)]
    for event in events:
        usage.journal.reserve()
        on_disk = usage.journal.append(event)
        assert on_disk is not None
        assert event.event_id not in accountant.times_booked()
        await on_disk
    await until(lambda: len(accountant.books) == 300)
    await usage.stop(2.0)
    assert segments_on_disk(options) == []


async def test_it_leaves_nothing_in_the_store_but_empty_streams(
    make_usage: MakeUsage, redis: Redis, make_event: MakeEvent, accountant: Accountant
) -> None:
    usage = make_usage()
    await usage.start()
    for n in range(100):
        write(usage, make_event(organization=f"org-{n}"))
    await usage.stop(5.0)
    states = await redis.stream_states([stream_name(shard) for shard in range(SHARDS)], "billing")
    assert [state.length for state in states] == [0] * SHARDS
    assert await redis.hash_read(NODES) == {}
