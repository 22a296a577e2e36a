"""A store that is gone, slow, emptied or ahead of us: who is known goes on, who is not is unknown and never absent."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway import projection
from gateway.keys import digest
from gateway.problem import StoreDown
from gateway.projection import Change
from gateway.stores.redis import Redis
from tests.fixtures.directory import KEY, NO_KEY, OTHER_KEY, Hands, Process, process, publisher, until
from tests.fixtures.publishing import Publisher, record
from tests.fixtures.slow_store import slow_store
from tests.fixtures.valkey import ValkeyServer, redis, valkey, valkey_process

__all__ = ["publisher", "redis", "valkey", "valkey_process"]


async def is_up(edge: Process) -> bool:
    return edge.number("tallygate_directory_up") == 1


async def is_fresh(edge: Process) -> bool:
    return edge.published._freshness.staleness() < 3


async def has_heard(edge: Process, change: int) -> bool:
    return edge.number("tallygate_directory_sequence") == change


async def is_down(edge: Process) -> bool:
    return edge.number("tallygate_directory_up") == 0


@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_while_the_store_is_away_known_callers_are_served(
    valkey: ValkeyServer, publisher: Publisher, how: str
) -> None:
    async with process(valkey.url) as edge:
        known = await edge.find(KEY)
        assert await edge.find(NO_KEY) is None
        valkey.kill() if how == "killed" else valkey.pause()
        with pytest.raises(StoreDown):
            await edge.find(OTHER_KEY)
        await until(lambda: is_down(edge))
        assert edge.remembered(KEY) is known
        with pytest.raises(StoreDown):
            await edge.find(NO_KEY)
        if how == "paused":
            valkey.resume()
            assert await until(lambda: is_up(edge)) < 1.0
            assert await edge.find(NO_KEY) is None


async def test_a_known_caller_is_served_for_so_long_and_no_longer(valkey: ValkeyServer, publisher: Publisher) -> None:
    hands = Hands()
    async with process(valkey.url, hands, max_staleness=60.0) as edge:
        known = await edge.find(KEY)
        is_revoked = edge.published.revocations.is_revoked
        for _ in range(2):  # as long as changes are heard, nothing grows old
            hands.turned += 50
            await until(lambda: is_fresh(edge))
            assert edge.remembered(KEY) is known
        valkey.kill()
        await until(lambda: is_down(edge))
        hands.turned += 57
        assert edge.remembered(KEY) is known
        assert not is_revoked("jti", "a")
        hands.turned += 3
        assert await edge.cannot_tell(KEY)
        with pytest.raises(StoreDown):
            is_revoked("jti", "a")


async def test_what_was_revoked_during_an_outage_is_refused_within_a_second_of_its_end(
    valkey: ValkeyServer, publisher: Publisher
) -> None:
    async with slow_store(valkey.port) as way, process(way.url) as edge:
        await edge.find(KEY)
        publisher.keys[OTHER_KEY] = record("other")
        await publisher.put(OTHER_KEY)
        await until(lambda: has_heard(edge, 2))
        other = await edge.find(OTHER_KEY)
        await way.close()
        publisher.keys[KEY] = record(revoked_at=1)
        await publisher.put(KEY)
        assert await edge.knows(KEY, "reports")
        await way.open()
        assert await until(lambda: edge.knows(KEY, None)) < 1.0
        assert edge.remembered(OTHER_KEY) is other  # following went on where it was
        assert edge.number("tallygate_directory_resyncs_total") == 1


async def test_a_store_that_comes_back_with_everything_written_anew(valkey: ValkeyServer, publisher: Publisher) -> None:
    """And not with what was true before: nobody is served from memory by then."""
    async with process(valkey.url) as edge:
        await edge.find(KEY)
        valkey.kill()
        await until(lambda: is_down(edge))
        valkey.start()
        publisher.keys[KEY] = record(revoked_at=1)
        await publisher.project()
        assert await until(lambda: edge.knows(KEY, None)) < 1.0
        assert edge.number("tallygate_directory_resyncs_total") == 2


# Gaps


async def test_a_gap_in_the_changes_puts_everything_in_doubt(
    valkey: ValkeyServer, publisher: Publisher, redis: Redis
) -> None:
    async with process(valkey.url) as edge:
        await edge.find(KEY)
        script = (
            "redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) redis.call('HSET', KEYS[2], 'sequence', '3')"
            "return redis.call('XADD', KEYS[3], '*', 'f', ARGV[3])"
        )
        keys = [projection.keys_key(digest(KEY)), projection.STATE, projection.CHANGES]
        revoked = projection.encode(record(revoked_at=1))
        change = projection.encode(Change(sequence=3, kind="organization", ids=("other",)))
        await redis.run(script, keys, [digest(KEY), revoked, change])  # change 2 was lost
        assert await until(lambda: edge.knows(KEY, None)) < 1.0
        assert edge.number("tallygate_directory_resyncs_total") == 2
        assert edge.number("tallygate_directory_sequence") == 3


async def test_who_is_behind_a_trimmed_stream_begins_anew(
    valkey: ValkeyServer, publisher: Publisher, redis: Redis
) -> None:
    async with slow_store(valkey.port) as way, process(way.url) as edge:
        await edge.find(KEY)
        await way.close()
        publisher.keys[KEY] = record(revoked_at=1)
        await publisher.put(KEY)
        await redis.run("return redis.call('XTRIM', KEYS[1], 'MAXLEN', '=', '0')", [projection.CHANGES])
        await way.open()
        assert await until(lambda: edge.knows(KEY, None)) < 2.0
        assert edge.number("tallygate_directory_resyncs_total") == 2


@pytest.mark.parametrize(
    "payload",
    [
        b"{",
        b'{"sequence":2,"kind":"key","ids":["xx"]}',
        b'{"v":9,"sequence":2,"kind":"key"}',
        b'{"sequence":2,"kind":"revocation","ids":["jti:a"]}',
    ],
)
async def test_a_change_that_is_not_understood_puts_everything_in_doubt(
    valkey: ValkeyServer, publisher: Publisher, redis: Redis, payload: bytes
) -> None:
    async with process(valkey.url) as edge:
        await edge.find(KEY)
        script = "redis.call('HSET', KEYS[1], 'sequence', '2') return redis.call('XADD', KEYS[2], '*', 'f', ARGV[1])"
        await redis.run(script, [projection.STATE, projection.CHANGES], [payload])

        async def began_anew() -> bool:
            return edge.number("tallygate_directory_resyncs_total") == 2

        await until(began_anew)
        assert edge.number("tallygate_directory_unreadable_total") == 1
        trips = edge.trips()
        assert await edge.knows(KEY, "reports")
        assert edge.trips() == trips + 1


@pytest.mark.parametrize("field", ["sequence", "generation"])
async def test_a_state_that_is_damaged_ends_nothing(
    valkey: ValkeyServer, publisher: Publisher, redis: Redis, field: str
) -> None:
    async with process(valkey.url) as edge:
        await edge.find(KEY)
        await redis.hash_write(projection.STATE, {field: "nonsense"})
        assert await until(lambda: edge.knows(KEY, "reports")) < 1.0
        publisher.keys[KEY] = record(revoked_at=1)
        await publisher.project()
        assert await until(lambda: edge.knows(KEY, None)) < 2.0


# Slow


async def test_a_slow_store_slows_nobody_who_is_known(valkey: ValkeyServer, publisher: Publisher) -> None:
    """Not even when everything is in doubt: after the first who noticed, nobody waits."""
    async with slow_store(valkey.port) as way, process(way.url) as edge:
        known = await edge.find(KEY)
        way.delay = 1.0
        publisher.keys[OTHER_KEY] = record("other")
        await publisher.project()

        async def in_doubt() -> bool:
            assert await edge.find(KEY) is known
            return edge.number("tallygate_directory_resyncs_total") == 2

        await until(in_doubt)
        began = time.monotonic()
        assert (await edge.find(KEY)) is not None
        assert time.monotonic() - began < 0.9  # a request's patience, not the store's time
        assert edge.remembered(KEY) is not None
        assert await edge.cannot_tell(OTHER_KEY)

        async def arrived() -> bool:
            return await edge.knows(OTHER_KEY, "other")  # the answer was used after all

        await until(arrived)
        trips = edge.trips()
        await until(lambda: asyncio.sleep(0, edge.remembered(KEY) is not known))  # looked up behind the requests
        assert edge.trips() <= trips + 1


async def test_too_many_look_ups_are_unknown(
    valkey: ValkeyServer, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.directory.look_ups.MOST", 3)
    async with process(valkey.url) as edge:
        known = await edge.find(KEY)
        valkey.pause()
        asking = [asyncio.create_task(edge.find(f"{NO_KEY}{number}")) for number in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(StoreDown):
            await edge.find(OTHER_KEY)
        assert not any(task.done() for task in asking), "it was told at once"
        assert edge.remembered(KEY) is known
        assert {type(each) for each in await asyncio.gather(*asking, return_exceptions=True)} == {StoreDown}
        valkey.resume()
        assert await until(lambda: edge.knows(OTHER_KEY, None)) < 1.0
