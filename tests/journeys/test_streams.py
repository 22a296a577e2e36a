"""Streams of events reach many clients as they are made, last longer than other calls may, and are billed once.

How they live through a reload and the end of a process is told in test_reload.py and test_drain.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.journeys.chat import Chat
from tests.journeys.node import Node, metered
from tests.journeys.system import KEY

CLIENTS = 100


@pytest.fixture
async def chat() -> AsyncIterator[Chat]:
    chat = Chat()
    await chat.start()
    yield chat
    await chat.stop()


async def test_events_reach_everybody_as_they_are_made(node: Node, chat: Chat):
    """For longer than `total`; the next event is made only when everybody has heard the one before."""
    node.config["upstreams"]["chat"] = {
        "targets": [f"http://127.0.0.1:{chat.port}"],
        "timeouts": {"total": "500ms", "exempt_streams": True},
    }
    route = {"name": "events", "match": {"path": "/events"}, "upstream": "chat"}
    node.config["routes"].insert(0, route | {"plugins": [{"compress": None}, *metered("requests", "bytes_out")]})
    await node.start()
    heard = [asyncio.Queue[bytes]() for _ in range(CLIENTS)]
    timeout = aiohttp.ClientTimeout(total=30)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(headers={"x-api-key": KEY}, connector=connector, timeout=timeout) as client:

        async def listen(mine: asyncio.Queue[bytes]) -> str:
            async with client.get(f"http://127.0.0.1:{node.port}/events") as response:
                assert "content-encoding" not in response.headers
                mine.put_nowait(b"")
                while event := await response.content.readline():
                    if event != b"\n":
                        mine.put_nowait(event)
                return response.headers["x-request-id"]

        listening = [asyncio.create_task(listen(mine)) for mine in heard]
        for mine in heard:
            assert await asyncio.wait_for(mine.get(), 10) == b""
        began, number = time.monotonic(), 0
        while time.monotonic() < began + 1.5:
            number += 1
            chat.events.put_nowait(str(number))
            first = await first_of(heard)
            assert first == b"data: %d\n" % number
        for _ in range(CLIENTS):
            chat.events.put_nowait("")
        ids = await asyncio.wait_for(asyncio.gather(*listening), 10)
    assert number > 10
    rows = await node.booked(ids)
    assert {row.outcome for row in rows.values()} == {"ok"}
    assert sum(row.quantities["bytes_out"] for row in rows.values()) == sum(
        len(f"data: {made}\n\n") for made in range(1, number + 1)
    )


async def first_of(heard: list[asyncio.Queue[bytes]]) -> bytes:
    """The event that one of them hears."""
    waiting = [asyncio.ensure_future(mine.get()) for mine in heard]
    done, rest = await asyncio.wait(waiting, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    for one in rest:
        one.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    (only,) = done
    return only.result()
