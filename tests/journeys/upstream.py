"""Upstream: a service behind the gateway that remembers every call, and answers some of them when the test says so."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from functools import partial
from typing import Any

BODY = b'{"usage": {"total_tokens": 7}}'
_WHOLE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Units: 7\r\nContent-Length: %d\r\n\r\n%b"
_BEGUN = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n"


class Call:
    """One call of the gateway. `gone` is set once its connection is closed before the call was answered whole.

    `received` counts the bytes of the body of a call that is held.
    """

    def __init__(self, transport: asyncio.Transport, head: bytes) -> None:
        self.path = head.split(b" ", 2)[1].decode()
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        self.name = fields.get(b"x-call", b"").decode()
        self.gone = asyncio.Event()
        self.over = False
        self.received = 0
        self._transport = transport

    async def lives(self, seconds: float) -> bool:
        """Whether the gateway still waits after so many seconds."""
        try:
            await asyncio.wait_for(self.gone.wait(), seconds)
        except TimeoutError:
            return True
        return False

    def answer(self, body: bytes = BODY) -> None:
        """Answer it whole."""
        self._transport.write(_WHOLE % (len(body), body))
        self.over = True

    def begin(self, media_type: str = "text/plain") -> None:
        """The head of an answer that goes on piece by piece."""
        self._transport.write(_BEGUN % media_type.encode())

    def say(self, piece: bytes) -> None:
        self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    def end(self) -> None:
        self._transport.write(b"0\r\n\r\n")
        self.over = True

    def break_off(self) -> None:
        """Close the connection, whatever was said."""
        self._transport.abort()


class _Connection(asyncio.Protocol):
    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._transport: Any = None
        self._heard = b""
        self._call: Call | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._upstream.transports.add(transport)

    def data_received(self, data: bytes) -> None:
        if self._call is not None and not self._call.over:
            self._call.received += len(data)  # the body of a request that is held
            return
        self._heard += data
        head, end, rest = self._heard.partition(b"\r\n\r\n")
        if end:
            self._heard = b"" if b"ontent-" in head or b"ransfer-" in head else rest
            self._call = Call(self._transport, head)
            self._call.received = len(rest)
            self._upstream.called(self._call)

    def connection_lost(self, error: Exception | None) -> None:
        self._upstream.transports.discard(self._transport)
        if self._call is not None and not self._call.over:
            self._call.gone.set()


class Upstream:
    """It answers at once, but a call whose path has `held` in it waits in `held` for the test to answer it.

    `seen` counts the calls by the `x-call` that the client gave them.
    """

    def __init__(self) -> None:
        self.held: asyncio.Queue[Call] = asyncio.Queue()
        self.seen: Counter[str] = Counter()
        self.transports: set[Any] = set()
        self.port = 0

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        """At the port where it was before, if it was."""
        loop = asyncio.get_running_loop()
        connection = partial(_Connection, self)
        self._server = await loop.create_server(connection, "127.0.0.1", self.port, backlog=1024, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        for transport in list(self.transports):
            transport.abort()
        await self._server.wait_closed()

    def called(self, call: Call) -> None:
        self.seen[call.name] += 1
        if "held" in call.path:
            self.held.put_nowait(call)
        else:
            call.answer()

    async def call(self, seconds: float = 5.0) -> Call:
        """The next call that is held."""
        return await asyncio.wait_for(self.held.get(), seconds)
