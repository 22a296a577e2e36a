"""A chat over TLS, with the client, with the upstream and with both: it goes, is billed and ends as one without."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.fixtures.certificates import Authority, server_context
from tests.journeys.chat import Chat
from tests.journeys.node import Node, metered, until
from tests.journeys.system import KEY

LARGE = os.urandom(2_000_000)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    (tmp_path / "certificates").mkdir()
    return Authority(tmp_path / "certificates")


@pytest.fixture(params=["https to http", "http to https", "https to https"])
async def chat(request: pytest.FixtureRequest, node: Node, authority: Authority) -> AsyncIterator[Chat]:
    """An upstream, and a node whose only listener is for its clients; TLS is on either side or on both."""
    client, upstream = (side == "https" for side in request.param.split(" to "))
    chat = Chat()
    await chat.start(server_context(authority.issue("upstream", ["localhost"])) if upstream else None)
    scheme = "https" if upstream else "http"
    options = {"tls": {"ca": str(authority.path)}} if upstream else {}
    node.config["upstreams"]["chat"] = {"targets": [f"{scheme}://localhost:{chat.port}"], **options}
    if client:
        node.config["listeners"][0]["tls"] = authority.issue("edge", ["localhost"]).options
    plugins = metered("requests", "messages_in", "messages_out", "bytes_in", "bytes_out")
    route = {"name": "chat", "match": {"path": "/chat"}, "upstream": "chat", "plugins": plugins}
    node.config["routes"].insert(0, route | {"websocket": {}})
    yield chat
    await chat.stop()


@asynccontextmanager
async def joining(node: Node, authority: Authority) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    secure = "tls" in node.config["listeners"][0]
    url = f"{'wss' if secure else 'ws'}://localhost:{node.port}/chat"
    options = {"ssl": authority.client()} if secure else {}
    async with (
        aiohttp.ClientSession(headers={"x-api-key": KEY}) as client,
        client.ws_connect(url, max_msg_size=0, **options) as session,
    ):
        yield session


async def booked(node: Node) -> tuple[str, dict[str, int]]:
    async def there() -> bool:
        return len(await node.books()) == 1

    await until(there, 20)
    (row,) = await node.books()
    return row.outcome, row.quantities


async def test_all_that_is_said_arrives_and_is_billed(node: Node, chat: Chat, authority: Authority) -> None:
    await node.start()
    async with asyncio.timeout(20), joining(node, authority) as session:
        await session.send_bytes(LARGE)
        assert await session.receive_bytes() == LARGE
        for number in range(100):
            await session.send_str(f"{number}")
        assert [await session.receive_str() for _ in range(100)] == [str(number) for number in range(100)]
        await session.send_str("leave")
        assert (await session.receive()).type is aiohttp.WSMsgType.CLOSE
        assert session.close_code == 4001
    outcome, quantities = await booked(node)
    assert outcome == "ok"
    said = len(LARGE) + sum(len(str(number)) for number in range(100))
    assert quantities == {
        "requests": 1,
        "messages_in": 102,
        "messages_out": 101,
        "bytes_in": said + len("leave"),
        "bytes_out": said,
    }
    assert "Traceback" not in node.log("edge")


async def test_both_sides_hear_why_the_process_ends(node: Node, chat: Chat, authority: Authority) -> None:
    await node.start()
    async with asyncio.timeout(20), joining(node, authority) as session:
        await session.send_str("hello")
        assert await session.receive_str() == "hello"
        ending = asyncio.create_task(node.end_edge(15))
        assert (await session.receive()).type is aiohttp.WSMsgType.CLOSE
        assert session.close_code == aiohttp.WSCloseCode.GOING_AWAY
        assert await ending == 0
    assert (await booked(node))[0] == "ok"
    assert chat.codes == [aiohttp.WSCloseCode.GOING_AWAY]
    assert "Traceback" not in node.log("edge")
