"""The listener: how the last ones leave when it drains."""

from __future__ import annotations

import asyncio

from tests.fixtures.wire import OK, Edge, Target


class Slow(Target):
    """An upstream that answers when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.told = asyncio.Event(), asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked.set()
        await self.told.wait()
        writer.write(OK)
        writer.close()


async def test_an_answer_under_way_says_that_its_connection_ends():
    slow = Slow()
    edge = Edge(slow)
    await edge.start()
    busy, idle = [await asyncio.open_connection("127.0.0.1", edge.port) for _ in range(2)]
    async with asyncio.timeout(5):
        busy[1].write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await slow.asked.wait()
        drain = asyncio.create_task(edge.listener.drain(5.0))
        assert await idle[0].read() == b""
        slow.told.set()
        head, _, body = (await busy[0].read()).partition(b"\r\n\r\n")
        await drain
    assert b"Connection: close" in head.split(b"\r\n")
    assert body == b"ok"
    for _, writer in (busy, idle):
        writer.close()
    await edge.stop()
