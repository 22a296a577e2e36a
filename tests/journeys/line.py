"""Line: one connection of a client, down to its bytes; Load: many of them that keep asking and note what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import ssl
import struct
import time
from types import TracebackType
from typing import NamedTuple, Self

from tests.journeys.system import KEY

_NAMES = itertools.count()


class Answer(NamedTuple):
    """What came back, whole. `name` is the request's `x-call`, `id` its `x-request-id`."""

    name: str
    status: int
    fields: dict[str, str]
    body: bytes
    seconds: float

    @property
    def id(self) -> str:
        return self.fields.get("x-request-id", "")


class Unanswered(Exception):
    """The connection ended before a byte of an answer."""


class Cut(Exception):
    """The connection ended inside of an answer."""


class Line:
    """`await Line.open(port)`, then `ask`; or `send`, and read what comes. Every read is bounded in time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
        self._reader = reader
        self._writer = writer
        self._seconds = seconds
        self.asked = 0

    @classmethod
    async def open(cls, port: int, seconds: float = 15.0, tls: ssl.SSLContext | None = None) -> Self:
        """With `tls` to a server that must be `localhost`."""
        name = None if tls is None else "localhost"
        async with asyncio.timeout(seconds):
            return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=name), seconds)

    @property
    def certificate(self) -> int:
        """The serial number of the certificate that the server has shown."""
        return int(self._writer.get_extra_info("peercert")["serialNumber"], 16)

    def send(self, path: str, method: str = "GET", fields: str = "", body: bytes = b"") -> str:
        """Send a request; returns its name."""
        name = f"call-{next(_NAMES)}"
        self.asked += 1
        head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nX-Api-Key: {KEY}\r\nX-Call: {name}\r\n{fields}\r\n"
        self._writer.write(head.encode() + body)
        return name

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def ask(self, path: str) -> Answer:
        """Send a request and read its answer whole. Raises Unanswered or Cut."""
        began = time.monotonic()
        name = self.send(path)
        return await self.answer(name, began)

    async def answer(self, name: str = "", began: float | None = None) -> Answer:
        began = time.monotonic() if began is None else began
        status, fields = await self.head()
        pieces = []
        if "content-length" in fields:
            pieces.append(await self._exactly(int(fields["content-length"])))
        else:
            while piece := await self.piece():
                pieces.append(piece)
        return Answer(name, status, fields, b"".join(pieces), time.monotonic() - began)

    async def head(self) -> tuple[int, dict[str, str]]:
        """The head of an answer."""
        try:
            async with asyncio.timeout(self._seconds):
                head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError as error:
            raise (Cut if error.partial else Unanswered)(repr(error.partial)) from None
        except ConnectionError as error:
            raise Unanswered(str(error)) from None
        lines = head.split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        return int(lines[0].split()[1]), fields

    async def piece(self) -> bytes:
        """The next chunk of a body; the last one is empty."""
        size = int((await self._exactly_until(b"\r\n")).strip(), 16)
        return (await self._exactly(size + 2))[:-2]

    async def closed(self) -> bytes:
        """Wait for the connection's end; what still came before it."""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(self._seconds):
                return await self._reader.read()
        return b""

    def half_close(self) -> None:
        self._writer.write_eof()

    def leave(self, *, reset: bool = False) -> None:
        """Close; with `reset` as a program that died does."""
        if reset:
            sock = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()
        else:
            self._writer.close()

    async def _exactly(self, size: int) -> bytes:
        try:
            async with asyncio.timeout(self._seconds):
                return await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Cut(repr(error)) from None

    async def _exactly_until(self, end: bytes) -> bytes:
        try:
            async with asyncio.timeout(self._seconds):
                return await self._reader.readuntil(end)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Cut(repr(error)) from None


async def ask(port: int, path: str) -> Answer:
    """One request on a connection of its own."""
    line = await Line.open(port)
    try:
        return await line.ask(path)
    finally:
        line.leave()


class Failure(NamedTuple):
    """A request without a whole answer. `fresh`: the first one on its connection."""

    name: str
    fresh: bool
    error: Exception


class Load:
    """Keep-alive clients that ask without pause while this is entered; one ends by itself when it is refused.

    It may be entered more than once.
    """

    def __init__(
        self, port: int, *paths: str, clients: int = 8, pause: float = 0.0, tls: ssl.SSLContext | None = None
    ) -> None:
        self._port = port
        self._tls = tls
        self._paths = itertools.cycle(paths or ("/quick",))
        self._clients = clients
        self._pause = pause
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self.answers: list[Answer] = []
        self.failures: list[Failure] = []
        self.refused = 0
        self._more = asyncio.Event()

    @property
    def served(self) -> set[str]:
        """The ids of the requests that were answered whole, and not with an error."""
        return {answer.id for answer in self.answers if answer.status < 400}

    def slowest(self, share: float = 0.99) -> float:
        """Seconds within which this share of the answers came."""
        times = sorted(answer.seconds for answer in self.answers)
        return times[min(len(times) - 1, int(len(times) * share))]

    async def __aenter__(self) -> Self:
        self._stopping = False
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self._clients)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping = True
        if error is not None:
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=error is not None)

    async def answered(self, more: int, seconds: float = 20.0) -> None:
        """Wait until so many more answers have come."""
        goal = len(self.answers) + more
        async with asyncio.timeout(seconds):
            while len(self.answers) < goal:
                self._more.clear()
                await self._more.wait()

    async def refused_all(self, seconds: float = 20.0) -> None:
        """Wait until every client has been refused."""
        await asyncio.wait_for(asyncio.wait(self._tasks), seconds)

    async def _client(self) -> None:
        line: Line | None = None
        try:
            while not self._stopping:
                if line is None:
                    try:
                        line = await Line.open(self._port, tls=self._tls)
                    except ConnectionError:
                        self.refused += 1
                        return
                line = await self._ask(line)
                if self._pause:
                    await asyncio.sleep(self._pause)
        finally:
            if line is not None:
                line.leave()

    async def _ask(self, line: Line) -> Line | None:
        began = time.monotonic()
        name = line.send(next(self._paths))
        try:
            answer = await line.answer(name, began)
        except (Unanswered, Cut, TimeoutError) as error:
            self.failures.append(Failure(name, line.asked == 1, error))
            line.leave()
            return None
        self.answers.append(answer)
        self._more.set()
        if answer.fields.get("connection") == "close":
            line.leave()
            return None
        return line
