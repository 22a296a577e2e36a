"""Publishing in trouble: stores that lose, die and come back, a publisher that is cut off, and all written anew."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway import projection
from gateway.clock import Clock
from gateway.control import projecting, publisher
from gateway.control.database import PUBLISHER, QUERIES
from gateway.keys import digest
from gateway.postgres import Connection, Database, DatabaseUnavailable
from gateway.projection import KeyRecord
from gateway.stores.redis import Redis
from gateway.stores.store import StoreUnavailable
from tests.fixtures.control import Client
from tests.fixtures.postgres import fetch, run_sql
from tests.fixtures.published import UNKNOWN, Edge, is_record, publishing
from tests.fixtures.valkey import ValkeyServer

HOME = "/v1/organizations/acme"


@pytest.mark.parametrize(
    "harm",
    [
        "return redis.call('FLUSHALL')",
        "return redis.call('DEL', 'tallygate:{directory}:state')",
        "return redis.call('HSET', 'tallygate:{directory}:state', 'generation', 'another')",
        "return redis.call('HSET', 'tallygate:{directory}:state', 'sequence', '0')",
        "for n = 0, 4095 do redis.call('DEL', string.format('tallygate:{directory}:keys:%03x', n)) end return 1",
    ],
)
async def test_a_store_that_lost_something_is_written_anew_within_a_second(
    acme: Client, database_url: str, redis: Redis, edge: Edge, harm: str
) -> None:
    secret = (await acme.make(f"{HOME}/keys", name="k"))["secret"]
    async with publishing(database_url, redis):
        await edge.until(lambda: edge.key(secret), is_record)
        generation = (await redis.hash_read(projection.STATE))["generation"]
        await redis.run(harm, [projection.STATE])

        async def anew() -> bool:
            state = await redis.hash_read(projection.STATE)
            return state.get("generation") not in (None, generation, b"another") and state.get("complete") == b"1"

        assert await edge.until(anew, bool) < 1.5
        assert is_record(await edge.key(secret))


async def test_a_hash_that_was_evicted_is_repaired(
    acme: Client, database_url: str, redis: Redis, edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all that was in it, and nothing else is in doubt meanwhile: the generation stays, and nobody is told."""
    monkeypatch.setattr(publisher, "_LOOK_SECONDS", 0.01)
    await acme.make("/v1/revocations", kind="jti", token="t", expires_at="2099-01-01T00:00:00Z")
    secret = (await acme.make(f"{HOME}/keys", name="k", roles=["reader"]))["secret"]
    async with publishing(database_url, redis):
        await edge.until(lambda: edge.key(secret), is_record)
        before, state = await everything(redis), await redis.hash_read(projection.STATE)
        for key in (
            projection.keys_key(digest(secret)),
            projection.organizations_key(projection.name_digest("acme")),
            projection.REVOKED,
            projection.keys_bucket(4095),
        ):
            for harm in ("return redis.call('DEL', KEYS[1])", "return redis.call('HSET', KEYS[1], '#', 77)"):
                await redis.run(harm, [key])
                await edge.until(lambda: everything_whole(redis), bool, 20)
        assert await everything(redis) == before
        assert await edge.revoked("jti:t") is not UNKNOWN
        assert await redis.hash_read(projection.STATE) == state


async def test_who_lost_the_right_to_publish_repairs_nothing(
    acme: Client, database_url: str, redis: Redis, edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it read is older than what somebody else has published since."""
    secret = (await acme.make(f"{HOME}/keys", name="k"))["secret"]
    async with publishing(database_url, redis):
        await edge.until(lambda: edge.key(secret), is_record)
    key = projection.keys_key(digest(secret))
    state = await redis.hash_read(projection.STATE)
    late = [state["generation"], int(state["sequence"]), digest(secret), b"{}"]
    async with publishing(database_url, redis):
        await acme.ask("POST", f"{HOME}/keys/k/revoke")
        await edge.until(lambda: edge.key(secret), lambda found: found.revoked_at is not None)
    assert await redis.run(projection.REPAIR, [projection.STATE, key], late) == 0
    found = await edge.key(secret)
    assert isinstance(found, KeyRecord)
    assert found.revoked_at is not None


async def test_who_lost_the_right_to_publish_begins_nothing_anew(
    acme: Client, database_url: str, redis: Redis, edge: Edge
) -> None:
    """A publisher whose connection was cut must not take what is published out of service."""
    async with publishing(database_url, redis):
        await edge.until(lambda: edge.organization("acme"), is_record)
    state = await redis.hash_read(projection.STATE)
    async with Database(database_url, PUBLISHER, QUERIES) as database, database.session() as session:
        pid = await session.raw.fetchval("select pg_backend_pid()")
        await run_sql(database_url, f"select pg_terminate_backend({pid})")
        with pytest.raises(DatabaseUnavailable):
            await projecting.project(session, redis, Clock(), 10)
    assert await redis.hash_read(projection.STATE) == state


async def test_a_store_that_was_away_gets_what_it_missed(
    acme: Client, database_url: str, valkey: ValkeyServer, redis: Redis, edge: Edge
) -> None:
    async with publishing(database_url, redis):
        await edge.until(lambda: edge.organization("acme"), is_record)
        valkey.kill()
        secret = (await acme.make(f"{HOME}/keys", name="k"))["secret"]
        with pytest.raises(StoreUnavailable):
            await edge.key(secret)
        valkey.start()
        assert await edge.until(lambda: edge.key(secret), is_record) < 2.5


async def test_a_database_that_was_away_is_listened_to_again(
    acme: Client, database_url: str, redis: Redis, edge: Edge
) -> None:
    async with publishing(database_url, redis):
        await edge.until(lambda: edge.organization("acme"), is_record)
        name = database_url.rsplit("/", 1)[1]
        ours = f"datname = '{name}' and pid <> pg_backend_pid() and query !~ 'tenant'"
        await run_sql(database_url, f"select pg_terminate_backend(pid) from pg_stat_activity where {ours}")
        async with asyncio.timeout(5):
            while True:
                told = await acme.ask("POST", f"{HOME}/keys", {"name": "k"})
                if told.status == 201:
                    break
        await edge.until(lambda: edge.key(told.document["secret"]), is_record)


async def test_cut_off_between_publishing_and_noting_it(
    acme: Client, database_url: str, redis: Redis, edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is published again, and nothing is written anew for it: the edge keeps what it knows."""
    async with publishing(database_url, redis):
        await edge.until(lambda: edge.organization("acme"), is_record)
    generation = (await redis.hash_read(projection.STATE))["generation"]
    secret = (await acme.make(f"{HOME}/keys", name="k"))["secret"]
    run = Connection.run

    async def cut_off(self: Connection, query: str, *arguments: object) -> None:
        if query == "keep_publication":
            raise DatabaseUnavailable("the machine is gone")
        await run(self, query, *arguments)

    monkeypatch.setattr(Connection, "run", cut_off)
    async with publishing(database_url, redis):
        await edge.until(lambda: edge.key(secret), is_record)
    assert await fetch(database_url, "select count(*) > 0 from outbox") == [(True,)]
    monkeypatch.undo()
    async with publishing(database_url, redis):
        await edge.until(lambda: fetch(database_url, "select count(*) from outbox"), lambda found: found == [(0,)])
    assert (await redis.hash_read(projection.STATE))["generation"] == generation
    sequences = [change.sequence for change in await edge.changes()]
    assert sequences == list(range(1, len(sequences) + 1))


async def test_what_commits_while_all_is_written_anew_is_not_forgotten(
    acme: Client, database_url: str, redis: Redis, edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    write_revocations = projecting._write_revocations

    async def meanwhile(*arguments: Any) -> None:
        if not made:  # keys have been written by now
            made.append((await acme.make(f"{HOME}/keys", name="late"))["secret"])
        await write_revocations(*arguments)

    monkeypatch.setattr(projecting, "_write_revocations", meanwhile)
    async with publishing(database_url, redis):
        await edge.until(lambda: edge.key(made[0]) if made else edge.organization("acme"), lambda _: bool(made))
        await edge.until(lambda: edge.key(made[0]), is_record)


async def test_a_store_that_is_emptied_while_all_is_written_anew(
    acme: Client, database_url: str, valkey: ValkeyServer, redis: Redis, edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    emptied: list[bool] = []
    write_revocations = projecting._write_revocations

    async def meanwhile(*arguments: Any) -> None:
        if not emptied:
            emptied.append(True)
            valkey.flush()
        await write_revocations(*arguments)

    monkeypatch.setattr(projecting, "_write_revocations", meanwhile)
    async with publishing(database_url, redis):
        await edge.until(lambda: edge.organization("acme"), is_record)
    assert emptied


async def test_a_row_that_cannot_be_published_is_tried_again(
    acme: Client, database_url: str, redis: Redis, edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with publishing(database_url, redis):
        await edge.until(lambda: edge.organization("acme"), is_record)
        monkeypatch.setattr(publisher, "key_record", lambda *_: 1 / 0)
        secret = (await acme.make(f"{HOME}/keys", name="k"))["secret"]
        assert await edge.key(secret) is None
        monkeypatch.undo()
        await edge.until(lambda: edge.key(secret), is_record)


async def test_one_publishes_and_another_takes_over(acme: Client, database_url: str, redis: Redis, edge: Edge) -> None:
    async with publishing(database_url, redis):
        await edge.until(lambda: edge.organization("acme"), is_record)
        async with publishing(database_url, redis):
            await acme.make(f"{HOME}/keys", name="one")
    generation = (await redis.hash_read(projection.STATE))["generation"]
    async with publishing(database_url, redis):
        secret = (await acme.make(f"{HOME}/keys", name="two"))["secret"]
        await edge.until(lambda: edge.key(secret), is_record)
    assert (await redis.hash_read(projection.STATE))["generation"] == generation


async def test_writing_all_anew_leaves_what_publishing_left(
    acme: Client, database_url: str, redis: Redis, edge: Edge
) -> None:
    """The same records, the same counts: whichever way they came."""
    async with publishing(database_url, redis):
        for number in range(12):
            await acme.make(f"{HOME}/keys", name=f"k{number}", roles=["reader"] if number % 2 else [])
        await acme.ask("POST", f"{HOME}/keys/k3/rotate", {})
        last = (await acme.make(f"{HOME}/keys", name="last"))["secret"]
        await edge.until(lambda: edge.key(last), is_record)
        published = await everything(redis)
        await redis.run("return redis.call('DEL', KEYS[1])", [projection.STATE])
        await edge.until(lambda: edge.key(last), is_record)
        assert await everything(redis) == published
    assert sum(len(fields) - 1 for key, fields in published.items() if ":keys:" in key) == 14


async def everything_whole(redis: Redis) -> bool:
    """Whether each hash holds what it says."""
    names = [
        name(number) for name in (projection.keys_bucket, projection.organizations_bucket) for number in range(4096)
    ]
    script = """
    for _, key in ipairs(KEYS) do
      if redis.call('HLEN', key) ~= tonumber(redis.call('HGET', key, '#') or -2) + 1 then return 0 end
    end
    return 1
    """
    return bool(await redis.run(script, [*names, projection.REVOKED]))


async def everything(redis: Redis) -> dict[str, dict[str, bytes]]:
    names = [
        name(number) for name in (projection.keys_bucket, projection.organizations_bucket) for number in range(4096)
    ]
    script = "local all = {} for _, k in ipairs(KEYS) do all[#all+1] = redis.call('HGETALL', k) end return all"
    found = {}
    for name, fields in zip(names, await redis.run(script, names), strict=True):
        pairs = {field.hex(): value for field, value in zip(fields[::2], fields[1::2], strict=True)}
        assert int(pairs[projection.COUNT.hex()]) == len(pairs) - 1
        found[name] = pairs
    return found
