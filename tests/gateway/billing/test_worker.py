"""The worker between a real Valkey and a real PostgreSQL, while either of them goes away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from gateway.billing.database import WORKER, Database
from gateway.billing.options import BillingOptions
from gateway.billing.record import unpack
from gateway.billing.worker import Worker, backoff, batches
from gateway.clock import Clock
from gateway.metering.stream import GROUP, Heartbeat, read_counts, stream_name, write_heartbeat
from gateway.metrics import Metrics
from gateway.stores.redis import Redis
from gateway.stores.store import StoreUnavailable
from tests.fixtures.postgres import fetch
from tests.fixtures.usage import OTHER_SEGMENT, SEGMENT, event, frame
from tests.fixtures.valkey import redis, valkey, valkey_process

__all__ = ["redis", "valkey", "valkey_process"]

SHARDS = 4
NODE = SEGMENT.split("/", maxsplit=1)[0]


@contextlib.asynccontextmanager
async def working(url: str, redis: Redis, **options: object) -> AsyncIterator[asyncio.Event]:
    """A worker at work; stopped at the end, unless it was before."""
    chosen = BillingOptions(**{"poll": 0.01, "statement_timeout": 2.0, **options})
    stop = asyncio.Event()
    async with Database(url, WORKER, connections=chosen.connections + 2, statement_timeout=2.0) as database:
        worker = Worker(redis, database, shards=SHARDS, options=chosen, metrics=Metrics(None), clock=Clock())
        task = asyncio.create_task(worker.run(stop))
        try:
            yield stop
        finally:
            stop.set()
            await task


async def send(redis: Redis, frames: Sequence[bytes], shard: int = 0) -> None:
    await redis.append([(stream_name(shard), packed) for packed in frames])


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while True:
            with contextlib.suppress(StoreUnavailable, OSError):
                if await condition():
                    return
            await asyncio.sleep(0.02)


async def published(redis: Redis, segment: str, records: int, shard: int = 0) -> bool:
    return await read_counts(redis, NODE, [(segment, {shard})]) == [records]


async def rows(url: str) -> int:
    ((count,),) = await fetch(url, "select count(*) from usage_event")
    assert isinstance(count, int)
    return count


async def test_usage_is_booked_published_and_let_go(database_url, redis):
    async with working(database_url, redis):
        for shard in range(SHARDS):
            await send(redis, [frame([event() for _ in range(30)], first=30 * shard)], shard)
        for shard in range(SHARDS):
            await until(lambda shard=shard: published(redis, SEGMENT, 30, shard))
    assert await rows(database_url) == 30 * SHARDS
    for state in await redis.stream_states([stream_name(shard) for shard in range(SHARDS)], GROUP):
        assert (state.length, state.pending) == (0, 0)


async def test_counts_that_were_lost_are_published_again_when_the_records_come_again(database_url, redis, valkey):
    packed = frame([event() for _ in range(5)])
    async with working(database_url, redis):
        await send(redis, [packed])
        await until(lambda: published(redis, SEGMENT, 5))
        valkey.flush()  # the group is gone too: NOGROUP
        await send(redis, [packed])
        await until(lambda: published(redis, SEGMENT, 5))
    assert await rows(database_url) == 5


async def test_valkey_that_forgets_between_read_and_acknowledgement(database_url, redis, valkey):
    class Forgotten(Redis):
        forgets = 3

        async def acknowledge(self, stream: str, group: str, identifiers: Sequence[str]) -> None:
            if self.forgets:
                self.forgets -= 1
                valkey.flush()
            await super().acknowledge(stream, group, identifiers)

    forgetful = Forgotten(valkey.url)
    packed = [frame([event() for _ in range(10)], first=10 * at) for at in range(6)]
    async with working(database_url, forgetful):

        async def all_accounted() -> bool:
            await send(redis, packed)  # as an edge does that sees no counts
            await asyncio.sleep(0.1)
            return await published(redis, SEGMENT, 60)

        await until(all_accounted)
    await forgetful.close()
    assert await rows(database_url) == 60


async def test_what_a_dead_worker_had_read_is_taken_over(database_url, redis):
    """It died between the read and the commit: the entries are pending, and nobody will deliver them again."""
    await redis.ensure_group(stream_name(0), GROUP)
    await send(redis, [frame([event() for _ in range(10)])])
    assert len(await redis.read_group(GROUP, "a worker that died", [stream_name(0)], count=10)) == 1
    async with working(database_url, redis):
        await until(lambda: published(redis, SEGMENT, 10))
    assert await rows(database_url) == 10


async def test_what_a_dead_worker_had_committed_is_not_booked_again(database_url, redis, intake):
    """It died between the commit and the acknowledgement."""
    packed = frame([event() for _ in range(10)])
    await intake.account(0, [unpack("0-1", packed)])
    await redis.ensure_group(stream_name(0), GROUP)
    await send(redis, [packed])
    await redis.read_group(GROUP, "a worker that died", [stream_name(0)], count=10)
    async with working(database_url, redis):
        await until(lambda: published(redis, SEGMENT, 10))
    assert await rows(database_url) == 10


async def test_postgres_killed_at_work_loses_and_doubles_nothing(postgres_server, database_url, redis):
    total = 20_000
    frames = [frame([event() for _ in range(100)], first=start) for start in range(0, total, 100)]
    async with working(database_url, redis, batch=300):
        for _ in range(3):
            for shard, third in enumerate((frames[0::3], frames[1::3], frames[2::3])):
                await send(redis, third[: len(third) // 3], shard)
                del third[: len(third) // 3]
            await asyncio.sleep(0.15)
            await asyncio.to_thread(postgres_server.kill)
            await asyncio.sleep(0.3)
            await asyncio.to_thread(postgres_server.start)
        for shard, third in enumerate((frames[0::3], frames[1::3], frames[2::3])):
            await send(redis, third, shard)  # all of it, most of it again

        async def complete() -> bool:
            return sum(await read_counts(redis, NODE, [(SEGMENT, {0, 1, 2})])) == total

        await until(complete, 60)
        await until(lambda: _empty(redis))
    assert await rows(database_url) == total
    assert await fetch(
        database_url, "select distinct sum(quantity)::bigint from usage_hour group by meter order by 1"
    ) == [
        (total,),
        (total * 512,),
    ]


async def _empty(redis: Redis) -> bool:
    states = await redis.stream_states([stream_name(shard) for shard in range(SHARDS)], GROUP)
    return all(state.length == 0 for state in states)


async def test_nothing_is_acknowledged_while_postgres_is_away(postgres_server, database_url, redis):
    async with working(database_url, redis):
        await send(redis, [frame([event()])])
        await until(lambda: published(redis, SEGMENT, 1))
        await asyncio.to_thread(postgres_server.kill)
        try:
            await send(redis, [frame([event()], OTHER_SEGMENT)])
            await asyncio.sleep(0.5)
            (state,) = await redis.stream_states([stream_name(0)], GROUP)
            assert state.undelivered + state.pending == 1
        finally:
            await asyncio.to_thread(postgres_server.start)
        await until(lambda: published(redis, OTHER_SEGMENT, 1))


async def test_valkey_killed_and_stopped_at_work(database_url, redis, valkey):
    packed = [frame([event() for _ in range(50)], first=50 * at) for at in range(20)]
    async with working(database_url, redis):
        await send(redis, packed[:10])
        valkey.pause()
        await asyncio.sleep(0.2)
        valkey.kill()
        await asyncio.sleep(0.2)
        await asyncio.to_thread(valkey.start)

        async def all_accounted() -> bool:
            await send(redis, packed)
            await asyncio.sleep(0.2)
            return await published(redis, SEGMENT, 1000)

        await until(all_accounted)
    assert await rows(database_url) == 1000


async def test_a_stopping_worker_finishes_the_batch_in_hand(database_url, redis):
    frames = [frame([event() for _ in range(500)], first=500 * at) for at in range(30)]
    async with working(database_url, redis, batch=500) as stop:
        await send(redis, frames)
        await until(lambda: _booked(database_url))
        stop.set()
    booked = await rows(database_url)
    assert 0 < booked < 15_000
    # What is in the books has left the stream; the rest is in it still.
    state = (await redis.stream_states([stream_name(0)], GROUP))[0]
    assert state.length == 30 - booked // 500
    async with working(database_url, redis):
        await until(lambda: published(redis, SEGMENT, 15_000))


async def _booked(url: str) -> bool:
    return await rows(url) > 0


async def test_two_workers_share_and_the_survivor_takes_over(database_url, redis, valkey):
    other = Redis(valkey.url)

    async def send_everywhere(first: int) -> None:
        for shard in range(SHARDS):
            await send(redis, [frame([event()], first=first + shard)], shard)

    async def counted(total: int) -> bool:
        return sum(await read_counts(redis, NODE, [(SEGMENT, set(range(SHARDS)))])) == total

    async with working(database_url, redis):
        await send_everywhere(0)
        await until(lambda: counted(SHARDS))
        async with working(database_url, other):
            await until(lambda: _owners(database_url, 2))
            await send_everywhere(10)
            await until(lambda: counted(2 * SHARDS))
        await send_everywhere(20)
        await until(lambda: counted(3 * SHARDS), 5)
    await other.close()


async def _owners(url: str, owners: int) -> bool:
    query = "select count(*) from pg_locks where locktype = 'advisory' and classid = 7402 group by pid"
    return await fetch(url, query) == [(SHARDS // owners,)] * owners


async def test_heartbeats_are_kept(database_url, redis):
    await write_heartbeat(redis, "n1", Heartbeat(1_700_000_000_000_000, 1_800_000_000_000_000, 3, 4096))
    await write_heartbeat(redis, "n2", Heartbeat(None, 1_800_000_000_000_000, 0, 0))
    query = "select node, extract(epoch from oldest_unaccounted_at)::bigint, segments, bytes from node order by 1"

    async def kept() -> bool:
        return await fetch(database_url, query) == [("n1", 1_700_000_000, 3, 4096), ("n2", None, 0, 0)]

    async with working(database_url, redis):
        await until(kept)


async def test_days_are_opened_ahead(database_url, redis):
    async def opened() -> bool:
        return await fetch(
            database_url, "select count(*) from pg_inherits where inhparent = 'usage_event'::regclass"
        ) == [(5,)]

    async with working(database_url, redis):
        await until(opened)


@pytest.mark.parametrize("failures", [1, 2, 5, 1000])
def test_backoff_has_an_end(failures):
    assert 0.05 <= backoff(failures) <= 5.0


def test_batches_hold_about_as_many_records_and_every_entry_once():
    delivered = [
        unpack(str(at), frame([event() for _ in range(size)])) for at, size in enumerate((1, 400, 700, 2000, 1, 1))
    ]
    made = list(batches(delivered, 1000))
    assert [[len(each.records) for each in batch] for batch in made] == [[1, 400], [700], [2000], [1, 1]]
    assert [each for batch in made for each in batch] == delivered
