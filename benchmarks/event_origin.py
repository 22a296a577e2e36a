"""Event origin: an upstream that streams events, each of which says when it was sent.

`GET /?count=10&interval=0.5` is answered with so many server-sent events, so many seconds apart; their data is the
monotonic clock of this machine in nanoseconds. Started as a program of its own (`python -m benchmarks.event_origin`),
so that it can have a core to itself.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import uvloop

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Stream(asyncio.Protocol):
    """One connection: requests without a body, one after the other."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._heard = b""
        self._left = 0
        self._interval = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._heard += data
        head, end, self._heard = self._heard.partition(b"\r\n\r\n")
        if not end:
            self._heard = head
            return
        query = parse_qs(urlsplit(head.split(b" ", 2)[1].decode()).query)
        self._left = int(query["count"][0])
        self._interval = float(query["interval"][0])
        self._transport.write(HEAD)
        self._send()

    def _send(self) -> None:
        if self._transport.is_closing():
            return
        event = b"data: %d\n\n" % time.monotonic_ns()
        self._left -= 1
        self._transport.write(b"%x\r\n%b\r\n" % (len(event), event) + (b"" if self._left else b"0\r\n\r\n"))
        if self._left:
            self._loop.call_later(self._interval, self._send)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Stream, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.event_origin", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(serve(parser.parse_args().port))
