from __future__ import annotations

import asyncio
import time

import pytest

from gateway.stores.redis import Redis
from gateway.stores.store import StoreUnavailable
from tests.fixtures.valkey import ValkeyServer


async def test_a_group_is_given_each_entry_once_and_acknowledging_removes_it(redis: Redis) -> None:
    first, second = await redis.append([("s", b"one"), ("s", b"two")])
    given = await redis.read_group("g", "c", ["s"], count=10)  # makes the group
    assert [(entry.identifier, entry.payload) for entry in given] == [(first, b"one"), (second, b"two")]
    assert await redis.read_group("g", "c", ["s"], count=10) == []

    await redis.acknowledge("s", "g", [first])
    (state,) = await redis.stream_states(["s"], "g")
    assert (state.length, state.undelivered, state.pending) == (1, 0, 1)
    assert (state.last_delivered, state.oldest_pending) == (second, second)


async def test_what_another_consumer_left_is_claimed(redis: Redis) -> None:
    await redis.ensure_group("s", "g")
    await redis.ensure_group("s", "g")  # twice is no error
    await redis.append([("s", b"one")])
    await redis.read_group("g", "dead", ["s"], count=10)
    assert await redis.claim_stale("s", "g", "heir", idle_seconds=60, count=10) == []
    (claimed,) = await redis.claim_stale("s", "g", "heir", idle_seconds=0, count=10)
    assert claimed.payload == b"one"


async def test_reading_waits_for_the_first_entry(redis: Redis) -> None:
    await redis.ensure_group("s", "g")
    reading = asyncio.create_task(redis.read_group("g", "c", ["s"], count=10, block_seconds=5))
    await asyncio.sleep(0.05)
    await redis.append([("s", b"late")])
    assert [entry.payload for entry in await reading] == [b"late"]
    assert await redis.read_group("g", "c", ["s"], count=10, block_seconds=0.01) == []


async def test_reading_on_waits_for_the_first_entry_and_says_what_a_hash_held_before(redis: Redis) -> None:
    await redis.hash_write("h", {"a": 1})
    assert await redis.read_after("s", "0-0", ("h", ["a", "b"]), count=2, block_seconds=0.01) == ([b"1", None], [])
    reading = asyncio.create_task(redis.read_after("s", "0-0", ("h", ["a"]), count=2, block_seconds=5))
    await asyncio.sleep(0.05)
    await redis.hash_write("h", {"a": 2})
    first, second, _third = await redis.append([("s", b"one"), ("s", b"two"), ("s", b"three")])
    values, entries = await reading
    assert values == [b"1"]
    assert entries[0] == ("s", first, b"one")
    values, entries = await redis.read_after("s", first, ("h", ["a"]), count=1, block_seconds=5)
    assert (values, entries) == ([b"2"], [("s", second, b"two")])


async def test_a_flushed_server_gets_its_group_back(redis: Redis, valkey: ValkeyServer) -> None:
    await redis.ensure_group("s", "g")
    valkey.flush()
    assert await redis.claim_stale("s", "g", "c", idle_seconds=0, count=1) == []
    valkey.flush()
    await redis.append([("s", b"after")])
    assert (await redis.stream_states(["s", "none"], "g"))[0].undelivered == 1
    assert [entry.payload for entry in await redis.read_group("g", "c", ["s"], count=1)] == [b"after"]


async def test_hashes(redis: Redis) -> None:
    await redis.hash_write("h", {"a": 1, "b": "two", "c": b"\xff"})
    assert await redis.hash_read("h") == {"a": b"1", "b": b"two", "c": b"\xff"}
    await redis.hash_delete("h", ["a", "missing"])
    assert await redis.hash_values("h", ["a", "b"]) == [None, b"two"]
    assert await redis.hash_read("none") == {}


async def test_a_script_is_one_step(redis: Redis) -> None:
    assert await redis.run("return {1, 'two', false, ARGV[1], KEYS[1]}", ["k"], [b"\xff"]) == [
        1,
        b"two",
        None,
        b"\xff",
        b"k",
    ]
    assert await redis.run("return false", []) is None
    add = "return redis.call('INCRBY', KEYS[1], ARGV[1])"
    assert await redis.run_each(add, [(["a"], (1,)), (["b"], (2,)), (["a"], (3,))]) == [1, 2, 4]
    assert await redis.run_each(add, []) == []
    with pytest.raises(StoreUnavailable, match="no such"):
        await redis.run("return redis.error_reply('no such thing')", [])


async def test_a_script_has_a_deadline(redis: Redis, valkey: ValkeyServer) -> None:
    valkey.pause()
    with pytest.raises(StoreUnavailable, match=r"no answer within 0\.05 s"):
        await redis.run("return 1", [], deadline=0.05)
    valkey.resume()


async def test_nothing_to_do_asks_nothing(valkey: ValkeyServer) -> None:
    unreachable = Redis("redis://127.0.0.1:1/0")
    assert await unreachable.append([]) == []
    assert await unreachable.hash_values("h", []) == []
    await unreachable.hash_write("h", {})
    await unreachable.hash_delete("h", [])
    await unreachable.acknowledge("s", "g", [])
    with pytest.raises(StoreUnavailable):
        await unreachable.hash_read("h")


async def test_an_error_reply_is_renamed_and_the_connection_lives_on(redis: Redis) -> None:
    await redis.hash_write("h", {"a": 1})
    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        await redis.append([("s", b"one"), ("h", b"two")])
    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        await redis.acknowledge("h", "g", ["1-1"])  # an error inside EXEC's reply
    assert await redis.hash_read("h") == {"a": b"1"}


@pytest.mark.parametrize("cut", ["deadline", "cancel"])
async def test_a_late_reply_is_never_taken_for_the_next_answer(valkey: ValkeyServer, cut: str) -> None:
    redis = Redis(valkey.url, deadline=0.1, connections=1)
    await redis.hash_write("h", {"mine": 1})
    valkey.pause()
    call = asyncio.create_task(redis.hash_read("h"))
    await asyncio.sleep(0.05)
    if cut == "cancel":
        call.cancel()
    with pytest.raises(asyncio.CancelledError if cut == "cancel" else StoreUnavailable):
        await call
    valkey.resume()
    await asyncio.sleep(0.05)
    assert await redis.hash_values("h", ["mine"]) == [b"1"]
    await redis.close()


async def test_a_slow_server_costs_the_deadline_also_while_waiting_for_a_connection(valkey: ValkeyServer) -> None:
    redis = Redis(valkey.url, deadline=0.1, connections=2)
    valkey.pause()
    started = time.monotonic()
    results = await asyncio.gather(*(redis.hash_read("h") for _ in range(60)), return_exceptions=True)
    assert all(isinstance(result, StoreUnavailable) for result in results)
    assert time.monotonic() - started < 1.5  # one pair after the other would take 3 s
    valkey.resume()
    await redis.close()


async def test_a_killed_server_is_found_again(redis: Redis, valkey: ValkeyServer) -> None:
    await redis.hash_read("h")
    valkey.kill()
    with pytest.raises(StoreUnavailable):
        await redis.hash_read("h")
    valkey.start()
    await redis.hash_read("h")


def test_an_address_it_cannot_read_is_an_error() -> None:
    with pytest.raises(ValueError, match="scheme"):
        Redis("http://localhost")
