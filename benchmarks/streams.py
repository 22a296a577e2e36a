"""Streams: what the edge adds to the first byte and to each event of a stream, and what many streams cost."""

from __future__ import annotations

import re
import selectors
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final, NamedTuple

from benchmarks import budgets
from benchmarks.edge import Edge, start_edge
from benchmarks.machine import Cores, forget_peak, peak, worked_seconds
from benchmarks.memory import allow_descriptors
from benchmarks.programs import ProgramFailed, Programs, accepts, free_ports

FIRST_BYTES: Final = 2_000
EVENTS: Final = 2_000
EVENT_SECONDS: Final = 0.003
STREAMS: Final = 2_000
STREAM_SECONDS: Final = 10
_EVENT: Final = re.compile(rb"data: (\d+)\n\n")


class Origin(NamedTuple):
    """Where a stream is asked for, and with which key."""

    port: int
    key: str

    def connect(self) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    def request(self, count: int, interval: float) -> bytes:
        target = f"/?count={count}&interval={interval}"
        return f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Api-Key: {self.key}\r\n\r\n".encode()


def run(programs: Programs, cores: Cores) -> int:
    """Measure all three, print and judge them. Returns the exit status."""
    allow_descriptors(2 * STREAMS + 200)
    port, unused = free_ports(2)
    programs.start("origin", [sys.executable, "-m", "benchmarks.event_origin", "--port", str(port)], cores.origin)
    programs.wait_for("the origin", lambda: accepts(port), seconds=10)
    edge = start_edge(programs, cores, origin=unused, demo=port)
    direct, through = Origin(port, edge.key), Origin(edge.port, edge.key)
    measured = {
        "added_first_byte_p99_milliseconds": added("first byte", first_bytes(direct), first_bytes(through)),
        "added_event_p99_milliseconds": added("event", events(direct), events(through)),
        "memory_mebibytes": many(edge, through),
    }
    programs.check()
    return budgets.verdict("streams", measured)


def added(what: str, direct: list[float], through: list[float]) -> float:
    """By how many milliseconds the slowest hundredth through the edge is slower than that of the origin itself."""
    differences = []
    for share in (0.5, 0.99):
        at = [sorted(seconds)[int(len(seconds) * share)] * 1000 for seconds in (direct, through)]
        differences.append(at[1] - at[0])
        print(f"{what}, p{share * 100:g}: {at[0]:.3f} ms at the origin, {at[1]:.3f} ms through the edge", flush=True)
    return round(differences[1], 3)


def first_bytes(origin: Origin) -> list[float]:
    """Seconds from a request to the first byte of its first event, one request after the other."""
    found = []
    request = origin.request(2, EVENT_SECONDS)  # one alone would not be a stream
    with origin.connect() as client:
        for _ in range(FIRST_BYTES):
            start = time.perf_counter()
            client.sendall(request)
            heard = take(client)
            while not _EVENT.search(heard):
                heard += take(client)
            found.append(time.perf_counter() - start)
            while len(_EVENT.findall(heard)) < 2:
                heard += take(client)
    return found


def events(origin: Origin) -> list[float]:
    """Seconds that each event of a stream was on its way."""
    with origin.connect() as client:
        client.sendall(origin.request(EVENTS, EVENT_SECONDS))
        found: list[float] = []
        while len(found) < EVENTS:
            found += delays(take(client))
    return found


def delays(piece: bytes) -> Iterator[float]:
    """How long the events in a piece of a stream were on their way; they are so small that none comes in two."""
    now = time.monotonic_ns()
    return ((now - int(match[1])) / 1e9 for match in _EVENT.finditer(piece))


def many(edge: Edge, origin: Origin) -> float:
    """The most memory of the edge, in MiB, while many streams bring an event a second each."""
    forget_peak(edge.process)
    found: list[float] = []
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(STREAMS):
            client = stack.enter_context(origin.connect())
            client.sendall(origin.request(STREAM_SECONDS * 10, 1.0))
            selector.register(client, selectors.EVENT_READ, client)
        worked, start = worked_seconds(edge.process), time.monotonic()
        while time.monotonic() < start + STREAM_SECONDS:
            for key, _ in selector.select(1.0):
                found += delays(take(key.data))
        worked = worked_seconds(edge.process) - worked
    if len(found) < STREAMS * STREAM_SECONDS * 0.9:
        raise ProgramFailed(f"only {len(found):,} events came of {STREAMS:,} streams")
    held = peak(edge.process) / 2**20
    late = sorted(found)[int(len(found) * 0.99)] * 1000
    print(f"{STREAMS:,} streams: {held:.0f} MiB, {worked / len(found) * 1e6:.1f} µs of CPU an event, p99 {late:.1f} ms")
    return round(held, 1)


def take(client: socket.socket) -> bytes:
    piece = client.recv(65536)
    if not piece:
        raise ProgramFailed("a stream ended before its time")
    return piece
