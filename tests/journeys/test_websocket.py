"""A chat through the gateway: real clients and a real server talk, and each session is known, logged and billed once.

Sessions go on when the configuration changes, take leave when the process ends, and are billed if it is killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from tests.fixtures.frames import KEY as NONCE
from tests.fixtures.frames import TEXT, said
from tests.journeys.chat import Chat
from tests.journeys.node import Node, metered, until
from tests.journeys.system import KEY

KEYED = {"x-api-key": KEY}
HANDSHAKE = (
    f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {NONCE.decode()}\r\n"
)
METERS = ("requests", "messages_in", "messages_out", "bytes_in", "bytes_out")


@pytest.fixture
async def chat() -> AsyncIterator[Chat]:
    chat = Chat()
    await chat.start()
    yield chat
    await chat.stop()


@pytest.fixture
def node(node: Node, chat: Chat) -> Node:
    """With a route to the chat, which is metered and logged."""
    node.config["upstreams"]["chat"] = {"targets": [f"http://127.0.0.1:{chat.port}"]}
    route: dict[str, Any] = {"name": "chat", "match": {"path": "/chat"}, "upstream": "chat"}
    route |= {"websocket": {"max_message": "1MiB"}, "plugins": [{"access_log": None}, *metered(*METERS)]}
    node.config["routes"].insert(0, route)
    return node


@asynccontextmanager
async def joining(node: Node, **options: Any) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    url = f"http://127.0.0.1:{node.port}/chat"
    async with aiohttp.ClientSession(headers=KEYED) as client, client.ws_connect(url, **options) as session:
        yield session


async def echoed(session: aiohttp.ClientWebSocketResponse, text: str) -> None:
    await session.send_str(text)
    assert await session.receive_str(timeout=5) == text


def log_lines(node: Node) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in node.log("edge").splitlines() if line.startswith("{")]
    return [line for line in found if line.get("route") == "chat"]


async def booked(node: Node, count: int = 1) -> list[Any]:
    async def there() -> bool:
        return len(await node.books()) >= count

    await until(there, 20)
    return [row for row in await node.books() if row.route == "chat"]


@pytest.mark.parametrize("compress", [0, 15], ids=["plain", "compressed"])
async def test_a_session_is_one_event_and_one_line_of_the_log(node: Node, chat: Chat, compress: int):
    await node.start()
    async with joining(node, protocols=("v1.chat", "x"), compress=compress) as session:
        assert session.protocol == "v1.chat"
        assert bool(session.compress) is bool(compress)
        await echoed(session, "hello")
        await session.ping(b"alive?")
        await session.send_bytes(b"\xff" * 200_000)
        assert await session.receive_bytes(timeout=5) == b"\xff" * 200_000
        await echoed(session, "grüße " * 50_000)
        assert await node.metric("tallygate_websockets", 'route="chat"') == 1
        await session.send_str("leave")
        assert (await session.receive(timeout=5)).type is aiohttp.WSMsgType.CLOSE
        assert session.close_code == 4001
    assert chat.protocols == ["v1.chat"]
    assert len(chat.said) == 4

    (row,) = await booked(node)
    assert (row.outcome, row.status) == ("ok", 101)
    counts = {name: row.quantities[name] for name in METERS if "bytes" not in name}
    assert counts == {"requests": 1, "messages_in": 4, "messages_out": 3}
    plain = 200_000 + len("grüße ".encode()) * 50_000 + len("hello")
    if compress:
        assert 0 < row.quantities["bytes_in"] < plain / 10
    else:
        assert row.quantities["bytes_out"] == plain
        assert row.quantities["bytes_in"] == plain + len("leave")
    (line,) = log_lines(node)
    assert (line["status"], line["outcome"], line["organization"]) == (101, "ok", "acme")
    assert (line["bytes_in"], line["bytes_out"]) == (row.quantities["bytes_in"], row.quantities["bytes_out"])
    assert line["request_id"] == row.id
    assert await node.metric("tallygate_websockets", 'route="chat"') == 0


async def test_who_has_no_key_is_not_let_in(node: Node, chat: Chat):
    await node.start(worker=False)
    async with aiohttp.ClientSession() as client:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await client.ws_connect(f"http://127.0.0.1:{node.port}/chat")
    assert refusal.value.status == 401
    assert chat.protocols == []


async def test_a_message_that_is_too_large_ends_the_session(node: Node, chat: Chat):
    await node.start()
    async with joining(node) as session:
        await session.send_bytes(b"x" * (2**20 + 1))
        assert (await session.receive(timeout=5)).type is aiohttp.WSMsgType.CLOSE
        assert session.close_code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
    (row,) = await booked(node)
    assert (row.outcome, row.quantities["messages_in"]) == ("client_gone", 0)
    assert chat.said == []
    assert chat.codes == [aiohttp.WSCloseCode.GOING_AWAY]
    assert node.log("edge").count("by fault of the client") == 1


async def test_sessions_survive_reloads_up_to_a_number(node: Node, chat: Chat):
    node.config["reload"] = {"max_retired": 1}
    await node.start()
    async with joining(node) as session:
        for number in range(3):
            node.config["plugins"] = [{"request_id": {"trust": bool(number % 2)}}]
            node.config["upstreams"]["chat"]["max_connections"] = 100 + number
            assert (await node.reload())[0] == 200
            await echoed(session, f"after reload {number}")
        async with joining(node) as other:
            await echoed(other, "hello from the new one")
            node.config["upstreams"]["chat"]["max_connections"] = 200
            assert (await node.reload())[0] == 200
            # One more than may be: the oldest one's session is told to come again.
            assert (await session.receive(timeout=5)).type is aiohttp.WSMsgType.CLOSE
            assert session.close_code == aiohttp.WSCloseCode.GOING_AWAY
            await echoed(other, "still here")

    async def none_left() -> bool:
        return await node.metric("tallygate_config_retired") == 0

    await until(none_left)
    rows = await booked(node, 2)
    assert [row.outcome for row in rows] == ["ok", "ok"]
    assert sorted(row.quantities["messages_in"] for row in rows) == [2, 3]


async def test_sessions_take_leave_when_the_process_ends(node: Node, chat: Chat):
    await node.start()
    async with joining(node) as session:
        await echoed(session, "hello")
        began = time.monotonic()
        ending = asyncio.create_task(node.end_edge(15))
        assert (await session.receive(timeout=5)).type is aiohttp.WSMsgType.CLOSE
        assert session.close_code == aiohttp.WSCloseCode.GOING_AWAY
        assert await ending == 0
        assert time.monotonic() - began < 4, "nobody has to wait for `drain_timeout`"
    (row,) = await booked(node)
    assert (row.outcome, row.quantities["messages_in"], row.quantities["messages_out"]) == ("ok", 1, 1)
    assert chat.codes == [aiohttp.WSCloseCode.GOING_AWAY]
    assert node.left_in_journal() == []


async def test_a_client_that_does_not_go_is_cut_when_the_drain_is_over(node: Node):
    node.config |= {"drain_timeout": "1s"}
    await node.start()
    line = await node.line()
    line.send("/chat", fields=HANDSHAKE)
    assert (await line.head())[0] == 101
    line.write(said(TEXT, b"hello"))
    began = time.monotonic()
    assert await node.end_edge(10) == 0
    assert 0.9 < time.monotonic() - began < 4
    (row,) = await booked(node)
    assert (row.status, row.quantities["messages_in"]) == (101, 1)
    assert node.left_in_journal() == []


async def test_a_session_whose_process_is_killed_is_billed(node: Node, chat: Chat):
    await node.start()
    async with joining(node) as session:
        await echoed(session, "hello")
        (pid,) = node.edge_pids()
        os.kill(pid, signal.SIGKILL)
        await session.receive(timeout=5)
    (row,) = await booked(node)
    assert (row.outcome, row.quantities["requests"]) == ("estimated", 1)


async def test_two_hundred_sessions_at_once_lose_nothing(node: Node, chat: Chat):
    await node.start()
    url = f"http://127.0.0.1:{node.port}/chat"
    async with aiohttp.ClientSession(headers=KEYED, connector=aiohttp.TCPConnector(limit=0)) as client:

        async def talk(name: int) -> None:
            async with client.ws_connect(url) as session:
                for number in range(10):
                    await echoed(session, f"{name} says {number}")

        await asyncio.gather(*[talk(name) for name in range(200)])
    rows = await booked(node, 200)
    assert len(rows) == 200
    assert {row.outcome for row in rows} == {"ok"}
    assert {(row.quantities["messages_in"], row.quantities["messages_out"]) for row in rows} == {(10, 10)}
