"""Memory: large bodies, a slow reader and many idle clients must not make the edge grow."""

from __future__ import annotations

import contextlib
import resource
import socket
import sys
import time
from collections.abc import Callable
from typing import Final

from benchmarks import budgets, tools
from benchmarks.edge import Edge, start_edge
from benchmarks.machine import Cores, forget_peak, peak, resident
from benchmarks.programs import ProgramFailed, Programs, accepts, free_ports

GIBIBYTE: Final = 2**30
MEBIBYTE: Final = 2**20
PIECE: Final = bytes(256 * 1024)
IDLE_CLIENTS: Final = 10_000
SLOW_SECONDS: Final = 10.0
SLOW_BYTES_PER_SECOND: Final = 64 * 1024


def run(programs: Programs, cores: Cores) -> int:
    """Measure all four, print and judge them. Returns the exit status."""
    allow_descriptors(IDLE_CLIENTS + 200)
    origin_port, demo_port = free_ports(2)
    programs.start("demo", [sys.executable, "-m", "demo", "--port", str(demo_port)], cores.origin)
    programs.wait_for("the demo upstream", lambda: accepts(demo_port), seconds=10)
    edge = start_edge(programs, cores, origin=origin_port, demo=demo_port)
    get(edge, "/json")
    measured = {
        "download_growth_mebibytes": growth(edge, "1 GiB down", download),
        "upload_growth_mebibytes": growth(edge, "1 GiB up", upload),
        "slow_reader_growth_mebibytes": growth(edge, "a slow reader", read_slowly),
        "idle_kibibytes_per_client": idle_clients(edge),
    }
    programs.check()
    return budgets.verdict("memory", measured)


def growth(edge: Edge, what: str, act: Callable[[Edge], None]) -> float:
    """By how many MiB the edge's memory rose at most above what it was before `act`."""
    before = resident(edge.process)
    forget_peak(edge.process)
    start = time.monotonic()
    act(edge)
    risen = (peak(edge.process) - before) / MEBIBYTE
    print(f"{what}: {risen:+.1f} MiB at most, in {time.monotonic() - start:.1f} s", flush=True)
    return round(risen, 2)


def connect(edge: Edge) -> socket.socket:
    return socket.create_connection(("127.0.0.1", edge.port), timeout=30)


def head(edge: Edge, method: str, path: str, *fields: str) -> bytes:
    lines = (f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{edge.port}", f"X-Api-Key: {edge.key}", *fields, "", "")
    return "\r\n".join(lines).encode()


def get(edge: Edge, path: str) -> None:
    with connect(edge) as client:
        client.sendall(head(edge, "GET", path))
        read_answer(client)


def read_answer(client: socket.socket) -> int:
    """Read one whole answer that has a content-length. Returns the length of its body."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += take(client)
    fields, _, rest = received.partition(b"\r\n\r\n")
    if b" 200 " not in fields.split(b"\r\n")[0]:
        raise ProgramFailed(f"the edge answered {fields[:200]!r}")
    lengths = [line.split(b":")[1] for line in fields.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    length = int(lengths[0])
    got = len(rest)
    while got < length:
        got += len(take(client))
    return length


def take(client: socket.socket) -> bytes:
    piece = client.recv(MEBIBYTE)
    if not piece:
        raise ProgramFailed("the edge closed the connection before the answer was complete")
    return piece


def download(edge: Edge) -> None:
    with connect(edge) as client:
        client.sendall(head(edge, "GET", f"/bytes?size={GIBIBYTE}"))
        if read_answer(client) != GIBIBYTE:
            raise ProgramFailed("the download has another length")


def upload(edge: Edge) -> None:
    with connect(edge) as client:
        client.sendall(head(edge, "PUT", "/upload", f"Content-Length: {GIBIBYTE}"))
        for _ in range(GIBIBYTE // len(PIECE)):
            client.sendall(PIECE)
        read_answer(client)


def read_slowly(edge: Edge) -> None:
    with connect(edge) as client:
        # A small window, so that the kernel does not take for the client what the client does not take.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        client.sendall(head(edge, "GET", f"/bytes?size={GIBIBYTE}"))
        end = time.monotonic() + SLOW_SECONDS
        while time.monotonic() < end:
            client.recv(SLOW_BYTES_PER_SECOND // 10)
            time.sleep(0.1)


def idle_clients(edge: Edge) -> float:
    """Open many connections, ask once on each, and see what each costs and that every one of them still answers.

    Returns KiB per client.
    """
    before = resident(edge.process)
    request = head(edge, "GET", "/json")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(edge)) for _ in range(IDLE_CLIENTS)]
        for client in clients:
            client.sendall(request)
            read_answer(client)
        each = (resident(edge.process) - before) / 1024 / IDLE_CLIENTS
        for client in clients[::10]:
            client.sendall(request)
            read_answer(client)
    print(f"{IDLE_CLIENTS:,} idle clients: {each:.1f} KiB each", flush=True)
    return round(each, 2)


def allow_descriptors(count: int) -> None:
    """Raise the limit of open files, for this process and what it starts. Raises ToolMissing if that is not allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= count:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, max(hard, count)))
    except (ValueError, OSError) as error:
        raise tools.ToolMissing(f"{count} open files are needed, {hard} are allowed (ulimit -n)") from error
