"""Decisions of the edge in the audit log: from a request that is refused to what its organization reads of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway import decisions
from gateway.clock import Clock
from gateway.control.database import PUBLISHER, QUERIES
from gateway.control.decisions import Recorder
from gateway.decisions import STREAM, Entry, Frame, encode
from gateway.metrics import Metrics
from gateway.postgres import Database
from gateway.stores.redis import Redis
from plugins.authorize import Authorize
from tests.fixtures.callers import Known, caller
from tests.fixtures.control import Client, tenant
from tests.fixtures.postgres import fetch, run_sql
from tests.fixtures.valkey import ValkeyServer
from tests.play import Stage, ask

HOUR = 3_600_000_000
BEGINNING = Clock().micros() // HOUR * HOUR - HOUR


@asynccontextmanager
async def recording(database_url: str, redis: Redis, metrics: Metrics | None = None) -> AsyncIterator[Recorder]:
    async with Database(database_url, PUBLISHER, QUERIES) as database:
        yield Recorder(database, redis, metrics=metrics or Metrics(None), clock=Clock())


def entry(times: int = 1, organization: str = "acme", **other: Any) -> Entry:
    said: dict[str, Any] = {"consumer": "ann", "route": "r", "wanted": "a:b", "allowed": False, "because": "so"} | other
    return Entry(organization, times=times, **said)


async def send(redis: Redis, *entries: Entry, sender: str = "edge", number: int = 1, at: int = BEGINNING) -> None:
    frame = Frame(sender, number, at, at + 1_000_000, list(entries))
    assert await redis.run(decisions.APPEND, [STREAM], [1000, encode(frame)])


async def listed(client: Client, organization: str = "acme") -> list[tuple[str, int]]:
    told = await client.get(f"/v1/organizations/{organization}/audit/decisions?limit=200")
    assert told.status == 200
    return [(item["wanted"], item["times"]) for item in told.document["items"]]


async def test_a_refusal_is_read_by_its_organization(
    client: Client, database_url: str, redis: Redis, valkey: ValkeyServer, tmp_path: Path
) -> None:
    admin = await tenant(client, "acme")
    stage = Stage(tmp_path, valkey.url)
    counted = decisions.Decisions(redis, Clock(), stage.metrics)
    object.__setattr__(stage.services, "decisions", counted)
    plugin = stage.make(Authorize, permission="books:{action}", when="hour < 24")
    noisy = stage.make(Authorize, permission="books:{action}", log_allowed=True)
    for method in ("GET", "DELETE", "DELETE"):
        for each in (plugin, noisy):
            await stage.play(Known(caller("books:read")), each, request=ask(method=method))
    hidden = stage.make(Authorize, when="param.owner == 'secret'")
    await stage.play(Known(caller()), hidden, request=ask())
    await counted.stop()
    async with recording(database_url, redis) as recorder:
        await recorder.take()
    items = (await admin.get("/v1/organizations/acme/audit/decisions")).document["items"]
    assert [(item["wanted"], item["allowed"], item["because"], item["times"]) for item in items] == [
        ("what a condition of this route says", False, "a fact is missing", 1),
        ("books:delete", False, "nothing grants it", 4),
        ("books:read", True, "books:read grants it", 1),
    ]
    assert {(item["organization"], item["consumer"], item["route"]) for item in items} == {("acme", "ann", "r")}
    assert items[0]["first_at"] <= items[0]["last_at"]
    assert (await admin.get("/v1/audit/decisions")).status == 403
    assert (await client.get("/v1/audit/decisions")).document["items"] == items
    await stage.close()


async def test_what_is_sent_twice_counts_once(client: Client, acme: Client, database_url: str, redis: Redis) -> None:
    async with recording(database_url, redis) as recorder, recording(database_url, redis) as other:
        for number in (1, 1, 2, 1):
            await send(redis, entry(5), number=number)
        await send(redis, entry(5), sender="another")
        await asyncio.gather(recorder.take(), other.take())
        assert await listed(acme) == [("a:b", 15)]
        assert await redis.read_oldest(STREAM, count=1) == []


async def test_an_hour_is_a_row(acme: Client, database_url: str, redis: Redis) -> None:
    async with recording(database_url, redis) as recorder:
        for number, at in enumerate((BEGINNING, BEGINNING + HOUR - 2_000_000, BEGINNING + HOUR), 1):
            await send(redis, entry(), number=number, at=at)
        await recorder.take()
    assert await listed(acme) == [("a:b", 1), ("a:b", 2)]


async def test_a_clock_that_is_wrong_makes_no_rows_of_the_future(acme: Client, database_url: str, redis: Redis) -> None:
    async with recording(database_url, redis) as recorder:
        for number in range(1, 6):
            await send(redis, entry(), number=number, at=BEGINNING + number * 1000 * HOUR)
        await recorder.take()
    assert await listed(acme) == [("a:b", 5)]
    (found,) = await fetch(
        database_url, "select bool_and(last_at <= now() and first_at <= last_at) from decision_entry"
    )
    assert found == (True,)


async def test_a_flood_makes_numbers_larger_and_not_the_table(
    client: Client, acme: Client, database_url: str, redis: Redis
) -> None:
    other = await tenant(client, "other")
    async with recording(database_url, redis) as recorder:
        for number in range(1, 11):
            await send(redis, *(entry(wanted=f"{number}:{each}") for each in range(50)), number=number)
        await send(redis, entry(3, "other"), sender="another")
        await recorder.take()
    found = await listed(acme)
    assert len(found) == 200
    everything = (await client.get("/v1/organizations/acme/audit/decisions?limit=1")).document["items"]
    assert (everything[0]["wanted"], everything[0]["times"], everything[0]["consumer"]) == ("others", 300, "")
    assert await listed(other, "other") == [("a:b", 3)]


async def test_an_hour_has_a_limit_for_all_together(acme: Client, database_url: str, redis: Redis) -> None:
    rows = (
        "insert into decision_entry (hour, organization, consumer, route, wanted, allowed, because, times, first_at,"
        " last_at) select to_timestamp($1), 'o' || n, '', '', '', false, '', 1, now(), now()"
        " from generate_series(1, 5000) as n"
    )
    await fetch(database_url, rows, BEGINNING / 1e6)
    async with recording(database_url, redis) as recorder:
        await send(redis, entry(7), entry(2, "o17"))
        await recorder.take()
    found = await fetch(
        database_url, "select organization, times from decision_entry where wanted = 'others' order by 1"
    )
    assert found == [("", 7), ("o17", 2)]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"\xff",
        encode(Frame("edge", 1, 0, 0, [entry(0)])),
        encode(Frame("edge", 1, 0, 2**64 - 1, [entry()])),
        encode(Frame("edge", 2**62 * 4, 0, 0, [entry()])),
        encode(Frame("edge", 1, 0, 0, [entry(wanted="a\x00b")])),
        encode(Frame("edge", 1, 0, 0, [entry(wanted="a" * 10_000_000)])),
    ],
)
async def test_what_cannot_be_read_is_dropped_and_holds_nothing_up(
    acme: Client, database_url: str, redis: Redis, payload: bytes
) -> None:
    metrics = Metrics(None)
    async with recording(database_url, redis, metrics) as recorder:
        await redis.append([(STREAM, payload)])
        await send(redis, entry(), sender="sound")
        await recorder.take()
    assert await listed(acme) == [("a:b", 1)]
    told = "Frames of decisions that could not be read, and were dropped."
    assert metrics.counter("tallygate_control_decisions_unusable_total", told).value == 1


async def test_stores_that_are_away_cost_nothing(
    acme: Client, database_url: str, redis: Redis, valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    await send(redis, entry())
    async with recording("postgresql://127.0.0.1:1/x", redis) as recorder:
        for _ in range(2):
            await recorder.take()
    assert caplog.text.count("decisions of the edge wait") == 1
    async with recording(database_url, redis) as recorder:
        valkey.pause()
        await recorder.take()
        valkey.resume()
        await recorder.take()
    assert await listed(acme) == [("a:b", 1)]


async def test_what_is_old_is_forgotten(acme: Client, database_url: str, redis: Redis) -> None:
    async with recording(database_url, redis) as recorder:
        await send(redis, entry(wanted="old:one"))
        await send(redis, entry(wanted="new:one"), number=2)
        await recorder.take()
    await run_sql(
        database_url,
        "update decision_entry set hour = now() - interval '31 days' where wanted = 'old:one'",
        "update decision_entry set hour = now() - interval '29 days' where wanted = 'new:one'",
        "update decision_sender set at = now() - interval '2 days'",
    )
    async with recording(database_url, redis) as recorder:
        await recorder.take()
    assert await listed(acme) == [("new:one", 1)]
    assert await fetch(database_url, "select sender from decision_sender") == []


async def test_pages_go_back_in_time(acme: Client, database_url: str, redis: Redis) -> None:
    async with recording(database_url, redis) as recorder:
        await send(redis, *(entry(wanted=f"a:{number}") for number in range(5)))
        await recorder.take()
    found: list[str] = []
    query = "?limit=2"
    while query:
        page = (await acme.get(f"/v1/organizations/acme/audit/decisions{query}")).document
        found += [item["wanted"] for item in page["items"]]
        query = f"?limit=2&after={page['next']}" if page["next"] else ""
    assert found == [f"a:{number}" for number in (4, 3, 2, 1, 0)]
