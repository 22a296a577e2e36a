"""Paced load: requests sent when they are due, whatever became of the ones before; latency counts from when it was due.

wrk sends the next request when the answer to the last one is there, so a slow moment slows the load down and hides
itself. Here the times are fixed beforehand: a request that has to wait for a free connection has waited. Started as a
program of its own (`python -m benchmarks.paced`) so that it can have a core to itself; prints one line of JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Final

MOST_CONNECTIONS: Final = 512  # select(2) looks at descriptors below 1024


@dataclass(frozen=True, slots=True)
class Latencies:
    """What came of a paced load. Latencies in milliseconds; `rate` is what was really answered per second."""

    rate: float
    p50: float
    p99: float
    p999: float
    answered: int


class Connection:
    """One keep-alive connection with at most one request on its way."""

    __slots__ = ("due", "left", "received", "socket")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due = 0.0
        self.received = b""
        self.left = -1  # bytes of the answer still to come; -1 while its head is not complete

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, request: bytes, due: float) -> None:
        self.due = due
        self.received = b""
        self.left = -1
        self.socket.sendall(request)

    def receive(self) -> bool:
        """Take what has arrived. True when the answer is complete. Raises ConnectionError for a bad answer."""
        piece = self.socket.recv(65536)
        if not piece:
            raise ConnectionError("the connection was closed before the answer was complete")
        if self.left >= 0:
            self.left -= len(piece)
            return self.left == 0
        self.received += piece
        head, blank, rest = self.received.partition(b"\r\n\r\n")
        if not blank:
            return False
        self.left = content_length(head) - len(rest)
        return self.left == 0


def content_length(head: bytes) -> int:
    """The content-length of a response with status 200. Raises ConnectionError for any other."""
    first, *fields = head.split(b"\r\n")
    if first.split(b" ", 2)[1] != b"200":
        raise ConnectionError(f"answered {first.decode('latin-1')}")
    for field in fields:
        name, _, value = field.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ConnectionError("answered without a content-length")


def pace(connections: list[Connection], requests: Iterator[bytes], rate: float, seconds: float) -> list[float]:
    """Send `rate` of the requests a second for `seconds`. The latencies in seconds, without the first tenth's."""
    free = deque(connections)
    busy: set[Connection] = set()
    waiting: deque[float] = deque()  # when the requests were due that found no free connection
    latencies: list[float] = []
    start = time.perf_counter()
    total = int(rate * seconds)
    sent = 0
    while sent < total or busy or waiting:
        now = time.perf_counter()
        while sent < total and start + sent / rate <= now:
            waiting.append(start + sent / rate)
            sent += 1
        while waiting and free:
            connection = free.popleft()
            busy.add(connection)
            connection.send(next(requests), waiting.popleft())
        pause = start + sent / rate - time.perf_counter() if sent < total else 1.0
        # select(2), not epoll: its timeout is in microseconds, epoll's in milliseconds.
        ready: list[Connection] = select.select(busy, [], [], max(0.0, pause))[0]
        for connection in ready:
            if connection.receive():
                latencies.append(time.perf_counter() - connection.due)
                busy.discard(connection)
                free.append(connection)
        if now > start + 2 * seconds + 10:
            raise ConnectionError("the answers stopped coming")
    return latencies[total // 10 :]


def summary(latencies: Sequence[float], seconds: float) -> Latencies:
    ordered = sorted(latencies)

    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000

    return Latencies(len(ordered) / seconds, at(0.5), at(0.99), at(0.999), len(ordered))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paced", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/")
    parser.add_argument("--header", action="append", default=[], help="a header field, `name: value`; may be repeated")
    parser.add_argument("--rate", type=float, required=True, help="requests a second")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--connections", type=int, default=32)
    arguments = parser.parse_args()
    lines = [f"GET {arguments.path} HTTP/1.1", f"Host: 127.0.0.1:{arguments.port}", *arguments.header, "", ""]
    request = "\r\n".join(lines).encode("latin-1")
    try:
        connections = [Connection(arguments.port) for _ in range(min(arguments.connections, MOST_CONNECTIONS))]
        start = time.perf_counter()
        latencies = pace(connections, itertools.repeat(request), arguments.rate, arguments.seconds)
        taken = time.perf_counter() - start
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(asdict(summary(latencies, taken * 0.9))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
