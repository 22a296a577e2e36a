"""The publisher between a real PostgreSQL and a real Valkey: what was changed is in Redis at once, whatever dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import pytest

from gateway import projection
from gateway.clock import Clock
from gateway.control import projecting, publisher
from gateway.control.database import PUBLISHER, QUERIES
from gateway.control.publisher import Publisher
from gateway.keys import digest
from gateway.metrics import Metrics
from gateway.postgres import Connection, Database, DatabaseUnavailable
from gateway.projection import Change, KeyRecord, OrganizationRecord
from gateway.stores.redis import Redis
from gateway.stores.store import StoreUnavailable
from tests.fixtures.control import Client
from tests.fixtures.postgres import fetch, run_sql
from tests.fixtures.valkey import ValkeyServer

HOME = "/v1/organizations/acme"
UNKNOWN = object()


@asynccontextmanager
async def publishing(database_url: str, redis: Redis, *, batch: int = 3) -> AsyncIterator[Publisher]:
    async with Database(database_url, PUBLISHER, QUERIES, connections=2) as database:
        running = Publisher(database, redis, metrics=Metrics(None), clock=Clock(), batch=batch)
        stop = asyncio.Event()
        task = asyncio.ensure_future(running.run(stop))
        try:
            yield running
        finally:
            stop.set()
            await task


class Edge:
    """What an edge process sees."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def _look_up(self, key: str, field: bytes) -> Any:
        whole, _, _, values = await self._redis.run(projection.LOOK_UP, [key, projection.STATE], [field])
        return values[0] if whole else UNKNOWN

    async def key(self, secret: str) -> KeyRecord | object | None:
        found = await self._look_up(projection.keys_key(digest(secret)), digest(secret))
        return projection.decode_key(found) if isinstance(found, bytes) else found

    async def organization(self, name: str) -> OrganizationRecord | object | None:
        field = projection.name_digest(name)
        found = await self._look_up(projection.organizations_key(field), field)
        return projection.decode_organization(found) if isinstance(found, bytes) else found

    async def revoked(self, token: str) -> Any:
        return await self._look_up(projection.REVOKED, token.encode())

    async def changes(self) -> list[Change]:
        script = (
            "local f = {} for _, e in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do f[#f+1] = e[2][2] end return f"
        )
        return [projection.decode_change(each) for each in await self._redis.run(script, [projection.CHANGES])]

    async def until(self, ask: Callable[[], Any], wanted: Callable[[Any], bool], seconds: float = 5.0) -> float:
        """Waits until the answer is the wanted one; how long that took."""
        began = monotonic()
        while not wanted(found := await ask()):
            assert monotonic() < began + seconds, f"still {found}"
            await asyncio.sleep(0.002)
        return monotonic() - began


@pytest.fixture
def edge(redis: Redis) -> Edge:
    return Edge(redis)


@pytest.fixture
async def acme(client: Client) -> Client:
    await client.make("/v1/organizations", name="acme")
    await client.make(f"{HOME}/roles", name="reader", permissions=["books:read"])
    return client


def is_record(found: object) -> bool:
    return isinstance(found, KeyRecord | OrganizationRecord)


async def test_a_key_is_known_in_well_under_a_second_and_its_revocation_too(
    acme: Client, database_url: str, redis: Redis, edge: Edge
) -> None:
    async with publishing(database_url, redis):
        await edge.until(lambda: edge.organization("acme"), is_record)
        made = await acme.make(f"{HOME}/keys", name="k", roles=["reader"], routes=["api"], networks=["192.0.2.0/24"])
        took = await edge.until(lambda: edge.key(made["secret"]), is_record)
        assert took < 0.5
        record = await edge.key(made["secret"])
        assert record == KeyRecord(
            id="k",
            name="k",
            organization="acme",
            roles=("reader",),
            permissions=("books:read",),
            routes=("api",),
            networks=("192.0.2.0/24",),
            epoch=1,
        )
        await acme.ask("POST", f"{HOME}/keys/k/revoke")
        took = await edge.until(lambda: edge.key(made["secret"]), lambda found: found.revoked_at is not None)
        assert took < 0.5


async def test_changes_are_numbered_without_a_gap(acme: Client, database_url: str, redis: Redis, edge: Edge) -> None:
    async with publishing(database_url, redis):
        for number in range(20):
            await acme.make(f"{HOME}/keys", name=f"k{number}")
        secret = (await acme.make(f"{HOME}/keys", name="last"))["secret"]
        await edge.until(lambda: edge.key(secret), is_record)
        changes = await edge.changes()
        assert changes[0].kind == "all"
        assert [change.sequence for change in changes] == list(range(1, len(changes) + 1))
        assert digest(secret).hex() in changes[-1].ids


async def test_everything_about_a_key_reaches_it(acme: Client, database_url: str, redis: Redis, edge: Edge) -> None:
    await acme.make(f"{HOME}/teams", name="north")
    await acme.make("/v1/roles", name="guest", permissions=["shop:look"])
    await acme.make(f"{HOME}/roles", name="lead", scope="team", permissions=["books:write"])
    await acme.make(f"{HOME}/users", name="bob")
    await acme.make(f"{HOME}/memberships", name="m", user="bob", roles=["reader"])
    await acme.make(f"{HOME}/memberships", name="n", user="bob", team="north", roles=["lead"])
    await acme.make(f"{HOME}/service-accounts", name="robot", roles=["guest"])
    await acme.make(f"{HOME}/subscriptions", name="s1", plan="gold")
    own = (await acme.make(f"{HOME}/keys", name="own", user="bob"))["secret"]
    team = (await acme.make(f"{HOME}/keys", name="team", user="bob", team="north"))["secret"]
    robot = (await acme.make(f"{HOME}/keys", name="robot", service_account="robot", permissions=["shop:*"]))["secret"]

    async def permissions() -> list[tuple[str, ...]]:
        return [
            record.permissions
            for secret in (own, team, robot)
            if isinstance(record := await edge.key(secret), KeyRecord)
        ]

    async def becomes(*wanted: tuple[str, ...]) -> None:
        await edge.until(permissions, lambda found: [tuple(sorted(each)) for each in found] == list(wanted))

    async with publishing(database_url, redis):
        await becomes(("books:read",), ("books:read", "books:write"), ("shop:look",))
        record = await edge.key(team)
        assert isinstance(record, KeyRecord)
        assert (record.name, record.user, record.subscription, record.plan) == ("bob", "bob", "s1", "gold")
        assert record.attributes == {"team": "north"}
        known = await edge.organization("acme")
        assert isinstance(known, OrganizationRecord)
        assert (known.plan, known.roles) == ("gold", {"guest": ("shop:look",), "reader": ("books:read",)})

        await acme.change(f"{HOME}/roles/reader", permissions=["books:see"])
        await becomes(("books:see",), ("books:see", "books:write"), ("shop:look",))
        await acme.change("/v1/roles/guest", permissions=["shop:buy", "garden:*"])
        await becomes(("books:see",), ("books:see", "books:write"), ("shop:buy",))
        await acme.change(f"{HOME}/memberships/n", roles=[])
        await becomes(("books:see",), ("books:see",), ("shop:buy",))
        await acme.change(f"{HOME}/service-accounts/robot", roles=[])
        await becomes(("books:see",), ("books:see",), ())
        await acme.ask("DELETE", f"{HOME}/memberships/m", headers={"if-match": '"1"'})
        await becomes((), (), ())

        await acme.change(f"{HOME}/subscriptions/s1", ended_at="2026-01-01T00:00:00Z")
        await edge.until(lambda: edge.key(own), lambda found: found.plan == "")
        for path, secret in ((f"{HOME}/users/bob", own), (f"{HOME}/service-accounts/robot", robot)):
            await acme.change(path, disabled=True)
            await edge.until(lambda secret=secret: edge.key(secret), lambda found: found.revoked_at is not None)
            await acme.change(path, disabled=False)
            await edge.until(lambda secret=secret: edge.key(secret), lambda found: found.revoked_at is None)
        await acme.change(HOME, disabled=True)
        await edge.until(lambda: edge.key(robot), lambda found: found.revoked_at is not None)
        assert (await edge.organization("acme")).disabled  # type: ignore[union-attr]


async def test_an_old_secret_ends_and_one_older_is_gone(
    acme: Client, database_url: str, redis: Redis, edge: Edge
) -> None:
    async with publishing(database_url, redis):
        first = (await acme.make(f"{HOME}/keys", name="k"))["secret"]
        second = (await acme.ask("POST", f"{HOME}/keys/k/rotate", {"grace_seconds": 60})).document["secret"]
        await edge.until(lambda: edge.key(second), is_record)
        assert (await edge.key(first)).expires_at is not None  # type: ignore[union-attr]
        third = (await acme.ask("POST", f"{HOME}/keys/k/rotate", {"grace_seconds": 60})).document["secret"]
        await edge.until(lambda: edge.key(third), is_record)
        await edge.until(lambda: edge.key(first), lambda found: found is None)


async def test_revoked_tokens(acme: Client, database_url: str, redis: Redis, edge: Edge) -> None:
    async with publishing(database_url, redis):
        await edge.until(lambda: edge.organization("acme"), is_record)
        token = {"kind": "session", "token": "s1", "expires_at": "2030-01-01T00:00:00Z"}
        made = await acme.make("/v1/revocations", **token)
        assert await edge.until(lambda: edge.revoked("session:s1"), lambda found: found == b"1893456000") < 0.5
        await acme.ask("DELETE", f"/v1/revocations/{made['name']}", headers={"if-match": '"1"'})
        await edge.until(lambda: edge.revoked("session:s1"), lambda found: found is None)
        told = [(change.ids, change.expires_at) for change in await edge.changes() if change.kind == "revocation"]
        assert told == [(("session:s1",), (1893456000,)), (("session:s1",), (0,))]


async def test_an_organization_that_is_gone_is_absent(
    acme: Client, database_url: str, redis: Redis, edge: Edge
) -> None:
    async with publishing(database_url, redis):
        await acme.make("/v1/organizations", name="brief")
        await edge.until(lambda: edge.organization("brief"), is_record)
        await acme.ask("DELETE", "/v1/organizations/brief", headers={"if-match": '"1"'})
        await edge.until(lambda: edge.organization("brief"), lambda found: found is None)


@pytest.mark.parametrize(
    "harm",
    [
        "return redis.call('FLUSHALL')",
        "return redis.call('DEL', 'tallygate:{directory}:state')",
        "return redis.call('HSET', 'tallygate:{directory}:state', 'generation', 'another')",
        "return redis.call('HSET', 'tallygate:{directory}:state', 'sequence', '0')",
        "return redis.call('HDEL', 'tallygate:{directory}:revoked', '#')",
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


async def test_a_hash_that_was_evicted_is_found_in_time(
    acme: Client, database_url: str, redis: Redis, edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "_LOOK_SECONDS", 0.01)
    secret = (await acme.make(f"{HOME}/keys", name="k"))["secret"]
    async with publishing(database_url, redis):
        await edge.until(lambda: edge.key(secret), is_record)
        await redis.run("return redis.call('DEL', KEYS[1])", [projection.keys_key(digest(secret))])
        assert await edge.key(secret) is UNKNOWN
        await edge.until(lambda: edge.key(secret), is_record, 20)


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
        if query == "forget_published":
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
