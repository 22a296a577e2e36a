"""Callers that a control plane has published, at a node of two processes: who they are, until when, and what becomes of
them while the store is away. What a control plane writes is written here by the test.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from gateway.keys import new_key
from gateway.stores.redis import Redis
from tests.fixtures.publishing import Publisher, record
from tests.fixtures.valkey import ValkeyServer, redis
from tests.journeys.line import Line
from tests.journeys.node import Node, until
from tests.journeys.system import KEY

__all__ = ["redis"]

CLIENTS = 16
"""Connections, so many that either process has some of them."""


@pytest.fixture
async def publisher(redis: Redis) -> Publisher:
    publisher = Publisher(redis)
    publisher.keys[KEY] = record()
    await publisher.project()
    return publisher


@pytest.fixture
async def clients(node: Node, publisher: Publisher) -> AsyncIterator[list[Line]]:
    """Their key is known to both processes."""
    route = {"name": "api", "upstream": "behind", "plugins": [{"key_auth": None}]}
    node.config |= {"consumers": [], "directory": {}, "processes": 2, "routes": [route]}
    await node.start(worker=False)
    clients = [await node.line() for _ in range(CLIENTS)]

    async def both_know() -> bool:
        assert await statuses(clients) == {200}
        return await node.metric("tallygate_directory_cached", 'kind="keys"') == 2

    await until(both_know)
    return clients


async def statuses(clients: list[Line]) -> set[int]:
    return {answer.status for answer in await asyncio.gather(*(client.ask("/quick") for client in clients))}


async def status_with(node: Node, key: str) -> int:
    line = await node.line()
    line.write(f"GET /quick HTTP/1.1\r\nHost: a\r\nX-Api-Key: {key}\r\n\r\n".encode())
    return (await line.answer()).status


async def refused_within_a_second(clients: list[Line], since: float) -> None:
    while await statuses(clients) != {401}:
        assert time.monotonic() - since < 1.0


async def test_a_revocation_reaches_every_process_within_a_second(
    node: Node, clients: list[Line], publisher: Publisher
) -> None:
    publisher.keys[KEY] = record(revoked_at=1)
    await publisher.put(KEY)
    await refused_within_a_second(clients, time.monotonic())
    publisher.keys[KEY] = record("again")
    await publisher.put(KEY)
    published_at = time.monotonic()
    while await statuses(clients) != {200}:
        assert time.monotonic() - published_at < 1.0
    assert await node.end_edge(5) == 0
    assert "error" not in node.log("edge").lower()


async def test_while_the_store_is_away_known_callers_are_served_and_nobody_is_absent(
    node: Node, clients: list[Line], publisher: Publisher, valkey: ValkeyServer
) -> None:
    unknown = new_key("test")
    assert await status_with(node, unknown) == 401
    valkey.kill()

    async def is_noticed() -> bool:
        return await node.metric("tallygate_directory_up") == 0

    await until(is_noticed)
    assert await statuses(clients) == {200}
    assert await status_with(node, unknown) == 503
    assert await status_with(node, new_key("live")) == 503
    assert await status_with(node, unknown[:-1] + "-") == 401

    valkey.start()  # and it is empty
    assert await statuses(clients) == {200}
    assert await status_with(node, unknown) == 503
    publisher.keys[KEY] = record(revoked_at=1)
    await publisher.project()
    await refused_within_a_second(clients, time.monotonic())
    assert await status_with(node, unknown) == 401


async def test_what_is_known_survives_a_reload(node: Node, clients: list[Line]) -> None:
    asked = await node.metric("tallygate_directory_trip_seconds_count")
    node.config["routes"][0]["name"] = "renamed"
    assert (await node.reload())[0] == 200
    assert await statuses(clients) == {200}
    assert await node.metric("tallygate_directory_trip_seconds_count") == asked
    node.config["directory"] = {"max_staleness": "5m"}
    status, document = await node.reload()
    assert status == 422
    assert "directory" in str(document)


async def test_sigterm_while_the_store_hangs(node: Node, clients: list[Line], valkey: ValkeyServer) -> None:
    assert await statuses(clients) == {200}
    valkey.pause()
    try:
        began = time.monotonic()
        assert await node.end_edge(10) == 0
        assert time.monotonic() - began < 10
    finally:
        valkey.resume()
