"""What a process knows of what was published: a real Valkey, and what becomes of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

import pytest

from gateway import projection
from gateway.directory.caller import Caller
from gateway.keys import digest
from gateway.problem import StoreDown
from gateway.projection import OrganizationRecord
from gateway.stores.redis import Redis
from tests.fixtures.directory import KEY, NO_KEY, OTHER_KEY, process, publisher, until
from tests.fixtures.publishing import Publisher, bucket_of, record
from tests.fixtures.slow_store import slow_store
from tests.fixtures.valkey import ValkeyServer, redis, valkey, valkey_process

__all__ = ["publisher", "redis", "valkey", "valkey_process"]


async def test_a_caller_is_looked_up_once_and_then_known(valkey: ValkeyServer, publisher: Publisher) -> None:
    async with process(valkey.url) as edge:
        caller = await edge.find(KEY)
        assert caller is not None
        assert (caller.name, caller.organization, caller.key, caller.user) == ("reports", "acme", "key_reports", "u1")
        assert (caller.roles, caller.permissions, caller.attributes["team"]) == ({"reader"}, ("books:read",), "a")
        assert edge.remembered(KEY) is caller
        assert edge.trips() == 1


async def test_what_is_absent_is_remembered_to_be_and_known_as_soon_as_it_is_made(
    valkey: ValkeyServer, publisher: Publisher
) -> None:
    async with process(valkey.url) as edge:
        assert await edge.find(OTHER_KEY) is None
        assert edge.remembered(OTHER_KEY) is None
        publisher.keys[OTHER_KEY] = record("fresh")
        await publisher.put(OTHER_KEY)
        assert await until(lambda: edge.knows(OTHER_KEY, "fresh")) < 1.0


async def test_that_it_is_absent_is_not_remembered_for_long(valkey: ValkeyServer, publisher: Publisher) -> None:
    async with process(valkey.url, absent_ttl=0.05) as edge:
        assert await edge.find(NO_KEY) is None
        await asyncio.sleep(0.06)
        assert await edge.find(NO_KEY) is None
        assert edge.trips() == 2


async def test_many_who_miss_at_once_share_one_trip(valkey: ValkeyServer, publisher: Publisher) -> None:
    async with process(valkey.url) as edge:
        found = await asyncio.gather(*(edge.find(key) for key in (KEY, OTHER_KEY, KEY, NO_KEY) * 20))
        assert {caller.name if caller else None for caller in found} == {"reports", None}
        assert edge.trips() == 1


async def test_who_leaves_takes_the_answer_from_nobody_else(valkey: ValkeyServer, publisher: Publisher) -> None:
    async with slow_store(valkey.port) as way, process(way.url) as edge:
        way.delay = 0.05
        waiting = [asyncio.create_task(edge.find(KEY)) for _ in range(3)]
        await asyncio.sleep(0.02)
        waiting[0].cancel()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert found[1] is found[2]
        assert isinstance(found[1], Caller)


# What the store lacks is unknown


async def test_of_an_empty_store_nothing_is_believed(valkey: ValkeyServer) -> None:
    async with process(valkey.url) as edge:
        with pytest.raises(StoreDown) as down:
            await edge.find(KEY)
        assert down.value.headers["retry-after"] == "1"


async def test_a_store_that_is_emptied_makes_nobody_absent(valkey: ValkeyServer, publisher: Publisher) -> None:
    async with process(valkey.url) as edge:
        known = await edge.find(KEY)
        assert await edge.find(NO_KEY) is None
        valkey.flush()
        with pytest.raises(StoreDown):
            await edge.find(OTHER_KEY)
        await until(lambda: edge.cannot_tell(NO_KEY))  # that it was absent is not said for long either
        assert edge.remembered(KEY) is known


async def test_while_all_is_written_anew_nobody_is_absent(valkey: ValkeyServer, publisher: Publisher) -> None:
    async with process(valkey.url) as edge:
        await edge.find(KEY)
        await publisher.begin()
        with pytest.raises(StoreDown):
            await edge.find(NO_KEY)
        assert await edge.knows(KEY, "reports")
        await publisher.write_buckets()
        with pytest.raises(StoreDown):
            await edge.find(NO_KEY)
        await publisher.finish()
        assert await edge.find(NO_KEY) is None


@pytest.mark.parametrize("damage", ["evicted", "half filled"])
async def test_a_bucket_that_lost_something_makes_nobody_absent(
    valkey: ValkeyServer, publisher: Publisher, redis: Redis, damage: str
) -> None:
    publisher.keys[OTHER_KEY] = record("other")
    await publisher.put(OTHER_KEY)
    async with process(valkey.url) as edge:
        if damage == "evicted":
            await redis.run("return redis.call('DEL', KEYS[1])", [bucket_of(OTHER_KEY)])
        else:
            await redis.run("return redis.call('HDEL', KEYS[1], ARGV[1])", [bucket_of(OTHER_KEY)], [digest(OTHER_KEY)])
        with pytest.raises(StoreDown):
            await edge.find(OTHER_KEY)
        assert await edge.find(KEY) is not None


@pytest.mark.parametrize("value", [b'{"v":2,"id":"k","name":"n","organization":"o"}', b"{", b'{"id":1}', b"\xff"])
async def test_a_record_that_is_not_understood_makes_nobody_absent(
    valkey: ValkeyServer, publisher: Publisher, redis: Redis, value: bytes
) -> None:
    script = "return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])"
    await redis.run(script, [bucket_of(KEY)], [digest(KEY), value])
    async with process(valkey.url) as edge:
        with pytest.raises(StoreDown):
            await edge.find(KEY)
        assert edge.number("tallygate_directory_unreadable_total") == 1


async def test_a_name_that_cannot_stand_in_a_header_is_refused(valkey: ValkeyServer, publisher: Publisher) -> None:
    publisher.keys[KEY] = record("a\r\nX-Evil: 1")
    await publisher.put(KEY)
    async with process(valkey.url) as edge:
        assert await edge.find(KEY) is None


# Changes


async def test_a_revocation_is_acted_on_within_a_second_by_every_process(
    valkey: ValkeyServer, publisher: Publisher
) -> None:
    async with process(valkey.url) as one, process(valkey.url) as two:
        assert await one.find(KEY)
        assert await two.find(KEY)
        publisher.keys[KEY] = record(revoked_at=1)
        await publisher.put(KEY)
        assert await until(lambda: one.knows(KEY, None)) < 1.0
        assert await until(lambda: two.knows(KEY, None)) < 1.0
        assert one.number("tallygate_directory_sequence") == 2
        assert 0 <= one.number("tallygate_directory_lag_seconds") < 1.0


async def test_a_change_that_overtakes_a_look_up_is_not_lost(valkey: ValkeyServer, publisher: Publisher) -> None:
    """The record was read before the change, and arrives behind it."""
    async with slow_store(valkey.port) as way, process(way.url) as edge:
        way.delay = 0.08
        asking = asyncio.create_task(edge.find(KEY))
        await asyncio.sleep(0.03)
        publisher.keys[KEY] = record(revoked_at=1)
        await publisher.put(KEY)
        edge.published.keys.drop(digest(KEY))  # what the change does, on a connection that is faster
        assert await asking is not None
        way.delay = 0.0
        assert await edge.find(KEY) is None


async def test_a_change_of_an_organization_is_one_of_all_its_keys(valkey: ValkeyServer, publisher: Publisher) -> None:
    publisher.keys[OTHER_KEY] = record("other", "umbrella")
    await publisher.put(OTHER_KEY)
    async with process(valkey.url) as edge:
        await edge.find(KEY)
        other = await edge.find(OTHER_KEY)
        publisher.keys[KEY] = record(plan="platinum")
        await publisher.put_organization("acme")

        async def changed() -> bool:
            caller = await edge.find(KEY)
            return caller is not None and caller.plan_version == "platinum"

        assert await until(changed) < 1.0
        assert edge.remembered(KEY) is await edge.find(KEY)
        assert edge.remembered(OTHER_KEY) is other


async def test_a_key_ends_when_it_ends_without_a_word(valkey: ValkeyServer, publisher: Publisher) -> None:
    """And so does the older secret of one that was rotated."""
    end = int(time.time()) + 2
    publisher.keys[KEY] = record(expires_at=end)
    await publisher.put(KEY)
    async with process(valkey.url) as edge:
        assert await edge.find(KEY) is not None
        await until(lambda: edge.knows(KEY, None))
        assert time.time() >= end
        assert edge.trips() == 1


async def test_revocations_of_tokens_are_known_without_asking(valkey: ValkeyServer, publisher: Publisher) -> None:
    later = int(time.time()) + 3600
    await publisher.revoke({"jti:old": later})
    async with process(valkey.url) as edge:
        is_revoked = edge.published.revocations.is_revoked
        assert is_revoked("jti", "old")
        assert not is_revoked("session", "old")
        await publisher.revoke({"session:s": later, "jti:old": 0})

        async def heard() -> bool:
            return is_revoked("session", "s")

        assert await until(heard) < 1.0
        assert not is_revoked("jti", "old")


async def test_before_anything_was_heard_nobody_can_tell_what_is_revoked(valkey: ValkeyServer) -> None:
    async with process(valkey.url) as edge:
        with pytest.raises(StoreDown):
            edge.published.revocations.is_revoked("jti", "a")


async def test_organizations_with_their_roles(valkey: ValkeyServer, publisher: Publisher) -> None:
    async with process(valkey.url) as edge:

        async def organization() -> Any:
            found = edge.published.organizations.find(projection.name_digest("acme"))
            return await found if isinstance(found, Awaitable) else found

        acme = await organization()
        assert acme.permissions_of(["reader", "nobody"]) == ("books:read",)
        assert await organization() is acme
        publisher.organizations["acme"] = OrganizationRecord(name="acme", disabled=True)
        await publisher.put_organization("acme")

        async def disabled() -> bool:
            return await organization() is None

        assert await until(disabled) < 1.0
