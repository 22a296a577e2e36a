"""The paced load generator keeps its times, and a slow server cannot talk it out of counting the wait."""

from __future__ import annotations

import asyncio
from itertools import repeat

import pytest

from benchmarks.paced import Connection, Latencies, pace, summary

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


async def load(pause: float, *, rate: float, seconds: float, connections: int) -> Latencies:
    """Offer `rate` to a server that takes `pause` seconds for an answer, which it sends in two pieces."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            await asyncio.sleep(pause)
            writer.write(ANSWER[:20])
            await writer.drain()
            writer.write(ANSWER[20:])
        writer.close()
        await writer.wait_closed()

    def offer() -> list[float]:
        opened = [Connection(port) for _ in range(connections)]
        try:
            return pace(opened, repeat(REQUEST), rate, seconds)
        finally:
            for each in opened:
                each.socket.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    latencies = await asyncio.to_thread(offer)
    server.close()
    await asyncio.sleep(0.05)
    return summary(latencies, seconds * 0.9)


async def test_offers_the_rate_it_was_told():
    found = await load(0.0, rate=200, seconds=0.5, connections=8)
    assert found.answered == 90
    assert found.rate == pytest.approx(200)
    assert found.p50 < 50


async def test_waiting_for_a_free_connection_counts():
    # 50 a second are offered to one connection that can carry 20: the queue grows, and with it the latency.
    found = await load(0.05, rate=50, seconds=1.0, connections=1)
    assert found.p50 > 300
