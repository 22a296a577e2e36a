"""Stores that stand still, or are started again, in the midst of requests: each is answered in time, and nothing that
was answered is lost or done twice.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from time import monotonic
from typing import Any

import pytest

from gateway.stores.redis import Redis
from tests.fixtures.control import Client, serving
from tests.fixtures.directory import process, until
from tests.fixtures.postgres import PostgresServer, fetch
from tests.fixtures.published import Edge, is_record, publishing
from tests.fixtures.valkey import ValkeyServer

HOME = "/v1/organizations/acme"
DEADLINE = 1.0
GRACE = 2.0
"""What a connection may take to be given back after that."""
WORKERS = 12


@pytest.mark.parametrize("seconds", [0.2, 3.0])  # before anybody has noticed, and after everybody has
async def test_who_was_revoked_meanwhile_is_refused_within_a_second_of_the_stores_return(
    acme: Client, database_url: str, valkey: ValkeyServer, redis: Redis, edge: Edge, seconds: float
) -> None:
    """From the revocation in PostgreSQL to the refusal at an edge process that knew the key."""
    secret = (await acme.make(f"{HOME}/keys", name="k", roles=["reader"]))["secret"]
    async with publishing(database_url, redis):
        await edge.until(lambda: edge.key(secret), is_record)
        async with process(valkey.url) as node:
            assert await node.find(secret) is not None
            valkey.pause()
            asked_at = monotonic()
            assert (await acme.ask("POST", f"{HOME}/keys/k/revoke")).status == 200
            assert monotonic() - asked_at < 1.0, "the API waits for Redis"
            await asyncio.sleep(seconds)
            assert await node.knows(secret, "k")
            valkey.resume()
            assert await until(lambda: node.knows(secret, None)) < 1.0


class Traffic:
    """Workers that make keys one after the other, and repeat what was refused, with the same idempotency key."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._over = asyncio.Event()
        self.made: list[str] = []
        self.told: Counter[int] = Counter()
        self.longest = 0.0

    async def work(self, worker: int) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            name = f"k-{worker}-{number}"
            while (told := await self._ask(name)).status != 201:
                assert told.headers["content-type"] == "application/problem+json"
                assert told.headers["retry-after"] == "1"
                await asyncio.sleep(0.02)
            self.made.append(name)

    async def _ask(self, name: str) -> Any:
        asked_at = monotonic()
        told = await self._client.ask("POST", f"{HOME}/keys", {"name": name}, {"idempotency-key": name})
        self.longest = max(self.longest, monotonic() - asked_at)
        self.told[told.status] += 1
        return told

    async def progress(self) -> None:
        """Until each of them has made something since."""
        wanted = len(self.made) + WORKERS

        async def enough() -> bool:
            return len(self.made) >= wanted

        await until(enough, 20)

    def end(self) -> None:
        self._over.set()


@pytest.mark.parametrize("how", ["stands still", "is restarted", "is killed"])
async def test_a_database_in_trouble_in_the_midst_of_requests(
    database_url: str, postgres_server: PostgresServer, redis: Redis, edge: Edge, how: str
) -> None:
    async with serving(database_url, deadline=DEADLINE) as client, publishing(database_url, redis):
        await client.make("/v1/organizations", name="acme")
        traffic = Traffic(client)
        async with asyncio.TaskGroup() as workers:
            for worker in range(WORKERS):
                workers.create_task(traffic.work(worker))
            for _ in range(2):
                await traffic.progress()
                await trouble(postgres_server, how)
                assert (await client.get("/health")).status == 200
                await traffic.progress()
            traffic.end()
        assert set(traffic.told) == {201, 503}
        assert traffic.longest < DEADLINE + GRACE + 0.5
        kept = await fetch(database_url, "select name from api_key order by name")
        assert [name for (name,) in kept] == sorted(traffic.made)
        secrets = await fetch(database_url, "select count(*), count(distinct key) from api_secret")
        assert secrets == [(len(kept), len(kept))]
        last = (await client.make(f"{HOME}/keys", name="last"))["secret"]
        await edge.until(lambda: edge.key(last), is_record)


async def trouble(server: PostgresServer, how: str) -> None:
    if how == "stands still":
        server.pause()
        await asyncio.sleep(6.0)
        server.resume()
    else:
        await asyncio.to_thread(server.stop if how == "is restarted" else server.kill)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(server.start)


async def test_a_store_that_stands_still_keeps_nobody_waiting(
    database_url: str, valkey: ValkeyServer, redis: Redis, edge: Edge
) -> None:
    """The API does not ask Redis: what was changed meanwhile is published when it is back."""
    async with serving(database_url, deadline=DEADLINE) as client, publishing(database_url, redis):
        await client.make("/v1/organizations", name="acme")
        first = (await client.make(f"{HOME}/keys", name="first"))["secret"]
        await edge.until(lambda: edge.key(first), is_record)
        traffic = Traffic(client)
        valkey.pause()
        async with asyncio.TaskGroup() as workers:
            for worker in range(WORKERS):
                workers.create_task(traffic.work(worker))
            await asyncio.sleep(3.0)
            await traffic.progress()
            traffic.end()
        last = (await client.make(f"{HOME}/keys", name="last"))["secret"]
        valkey.resume()
        assert set(traffic.told) == {201}
        await edge.until(lambda: edge.key(last), is_record)
