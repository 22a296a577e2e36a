"""Clients: real ones, that send every kind of request and remember which answers they received whole."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator

import aiohttp

from tests.journeys.system import KEY, System

HEADERS = {"x-api-key": KEY}


class Clients:
    """`whole` is the request ids of answers that are to be billed and were received to their last byte."""

    def __init__(self, system: System, seed: int) -> None:
        self._system = system
        self._random = random.Random(seed)
        self.whole: set[str] = set()
        self.sent: Counter[str] = Counter()
        self.failed = 0

    async def run(self, requests: int, at_once: int = 16) -> None:
        """Send until so many answers have been received whole."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15)) as session:
            await asyncio.gather(*[self._one_client(session, requests) for _ in range(at_once)])

    async def _one_client(self, session: aiohttp.ClientSession, requests: int) -> None:
        kinds = [
            self._get,
            self._get,
            self._get,
            self._post,
            self._chunked,
            self._stream,
            self._large,
            self._ai,
            self._old,
        ]
        while len(self.whole) < requests:
            kind = self._random.choice(kinds)
            self.sent[kind.__name__.strip("_")] += 1
            try:
                await kind(session)
            except (aiohttp.ClientError, OSError, TimeoutError, asyncio.IncompleteReadError):
                self.failed += 1
                await asyncio.sleep(0.01)

    async def _ask(self, session: aiohttp.ClientSession, method: str, path: str, **more: object) -> None:
        async with session.request(method, self._system.url + path, headers=HEADERS, **more) as answer:  # type: ignore[arg-type]
            await answer.read()
            if answer.status < 400:
                self.whole.add(answer.headers["x-request-id"])
            else:
                self.failed += 1

    async def _get(self, session: aiohttp.ClientSession) -> None:
        await self._ask(session, "GET", "/json")

    async def _post(self, session: aiohttp.ClientSession) -> None:
        await self._ask(session, "POST", "/echo", data=b"x" * self._random.randrange(5000))

    async def _chunked(self, session: aiohttp.ClientSession) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"y" * 700

        await self._ask(session, "POST", "/echo", data=pieces())

    async def _stream(self, session: aiohttp.ClientSession) -> None:
        await self._ask(session, "GET", "/stream?count=5&interval=0")

    async def _large(self, session: aiohttp.ClientSession) -> None:
        await self._ask(session, "GET", "/bytes?size=150000")

    async def _ai(self, session: aiohttp.ClientSession) -> None:
        await self._ask(session, "POST", "/ai/chat", json={"messages": [{"role": "user", "content": "hello"}]})

    async def _old(self, _: aiohttp.ClientSession) -> None:
        """An HTTP/1.0 client."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._system.port)
        try:
            writer.write(f"GET /json HTTP/1.0\r\nHost: a\r\nX-Api-Key: {KEY}\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
            await reader.readexactly(int(fields["content-length"]))
            if head.split()[1] < "400":
                self.whole.add(fields["x-request-id"])
        finally:
            writer.close()
