"""Directory: 1,000,000 published keys; what the first sight of a caller takes, and what the edge holds of them."""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks import budgets
from benchmarks.edge import Edge, start_edge
from benchmarks.machine import Cores, resident
from benchmarks.paced import Connection, Latencies, pace, summary
from benchmarks.programs import ProgramFailed, Programs, accepts, free_ports
from benchmarks.report import table
from gateway import projection
from gateway.keys import digest, new_key
from gateway.projection import Change, KeyRecord
from gateway.stores.address import url_file
from gateway.stores.redis import Argument, Redis

PUBLISHED: Final = 1_000_000
CACHE: Final = 20_000
RATE: Final = 500.0
SECONDS: Final = 3.0
ROUNDS: Final = 5
"""Of which the median counts: something else on the machine is slow in one or the other."""
_ROUND: Final = int(RATE * SECONDS)
_PACED: Final = _ROUND * ROUNDS
_ASKED: Final = 3 * CACHE + _PACED
"""Keys that are asked with; of the others nobody needs to know more than the digest."""
_CONNECTIONS: Final = 16
_BUCKETS_AT_ONCE: Final = 32
_MEBIBYTE: Final = 2**20


def run(programs: Programs, cores: Cores) -> int:
    """Publish, measure, print and judge. Returns the exit status."""
    unused, demo = free_ports(2)
    programs.start("demo", [sys.executable, "-m", "demo", "--port", str(demo)], cores.origin)
    programs.wait_for("the demo upstream", lambda: accepts(demo), seconds=10)
    section = f"directory: {{cache: {CACHE}}}\n"
    edge = start_edge(programs, cores, origin=unused, demo=demo, sections=section)
    keys = [new_key("test") for _ in range(_ASKED)]
    start = time.monotonic()
    asyncio.run(publish(url_file(programs.directory / "stores", "valkey").read_text().strip(), keys))
    print(f"{PUBLISHED:,} keys published in {time.monotonic() - start:.1f} s", flush=True)
    programs.wait_for("the edge to hear of it", lambda: edge.metric("tallygate_directory_up") == 1, seconds=10)
    measured = first_sights(edge, keys[:_PACED]) | memory(edge, keys[_PACED:])
    programs.check()
    return budgets.verdict("directory", measured)


async def publish(url: str, keys: Sequence[str], count: int = PUBLISHED) -> None:
    """Writes `count` records, of these keys and of random ones, as a control plane writes all of them anew."""
    redis = Redis(url, deadline=30.0)
    digests = itertools.chain(map(digest, keys), (os.urandom(32) for _ in range(count - len(keys))))
    buckets: list[list[bytes]] = [[] for _ in range(projection.BUCKETS)]
    for number, each in enumerate(digests):
        buckets[projection.bucket_of(each)] += (each, projection.encode(record(number)))
    names = [projection.keys_bucket(number) for number in range(projection.BUCKETS)]
    names += [projection.organizations_bucket(number) for number in range(projection.BUCKETS)]
    content = [*buckets, *([] for _ in range(projection.BUCKETS))]
    try:
        await redis.run(projection.BEGIN, [projection.STATE], ["bench"])
        await redis.run(projection.REPLACE, [projection.STATE, projection.REVOKED], ["bench", 0])
        for at in range(0, len(names), _BUCKETS_AT_ONCE):
            arguments: list[Argument] = ["bench"]
            for parts in content[at : at + _BUCKETS_AT_ONCE]:
                arguments += (len(parts) // 2, *parts)
            some = names[at : at + _BUCKETS_AT_ONCE]
            await redis.run(projection.REPLACE, [projection.STATE, *some], arguments)
        change = projection.encode(Change(sequence=1, kind="all"))
        keys_of_finish = [projection.STATE, projection.CHANGES]
        await redis.run(projection.FINISH, keys_of_finish, ["bench", projection.LONGEST_STREAM, change])
    finally:
        await redis.close()


def record(number: int) -> KeyRecord:
    """A key of one of 10,000 organizations."""
    organization = f"organization_{number % 10_000}"
    return KeyRecord(
        id=f"key_{number}",
        name=f"service_{number}",
        organization=organization,
        subscription=f"subscription_{number % 10_000}",
        plan="professional",
        roles=("reader", "writer"),
        permissions=("books:read", "books:write", "!books:delete"),
        attributes={"department": f"d{number % 100}"},
    )


def first_sights(edge: Edge, keys: Sequence[str]) -> dict[str, float]:
    """Each key for the first time, at a moderate rate, and then again from memory."""
    connections = [Connection(edge.port) for _ in range(_CONNECTIONS)]
    rows: list[Sequence[str]] = [(f"at {RATE:g} requests/s", "p50 ms", "p99 ms", "p99.9 ms")]
    found: dict[str, list[Latencies]] = {"first sight": [], "known": []}
    for at in range(0, len(keys), _ROUND):
        for made in found.values():
            latencies = pace(connections, requests(edge, keys[at : at + _ROUND]), RATE, SECONDS)
            made.append(summary(latencies, SECONDS * 0.9))
    for name, rounds in found.items():
        medians = (statistics.median(getattr(made, share) for made in rounds) for share in ("p50", "p99", "p999"))
        rows.append((name, *(f"{value:.2f}" for value in medians)))
    print(table(rows), flush=True)
    if (remembered := edge.metric("tallygate_directory_cached")) != len(keys):
        raise ProgramFailed(f"{remembered:,.0f} of {len(keys):,} callers are remembered: something else was measured")
    return {"miss_p99_milliseconds": round(statistics.median(made.p99 for made in found["first sight"]), 3)}


def memory(edge: Edge, keys: Sequence[str]) -> dict[str, float]:
    """As many callers as are remembered, and then twice as many others."""
    rows: list[Sequence[str]] = [("callers so far", "remembered", "memory MiB")]
    held = []
    for seen in range(_PACED, _PACED + len(keys) + 1, CACHE):
        ask(edge, keys[max(0, seen - _PACED - CACHE) : seen - _PACED])
        held.append(resident(edge.process) / _MEBIBYTE)
        remembered = edge.metric("tallygate_directory_cached")
        rows.append((f"{seen:,}", f"{remembered:,.0f}", f"{held[-1]:.1f}"))
        if remembered > CACHE:
            raise ProgramFailed(f"{remembered:,.0f} callers are remembered, {CACHE:,} are allowed")
    print(table(rows), flush=True)
    return {
        "kibibytes_per_caller": round((held[1] - held[0]) * 1024 / (CACHE - _PACED), 2),
        "growth_beyond_cache_mebibytes": round(held[-1] - held[1], 2),
    }


def ask(edge: Edge, keys: Sequence[str]) -> None:
    """Every key once, as fast as it goes."""
    if keys:
        connections = [Connection(edge.port) for _ in range(_CONNECTIONS)]
        pace(connections, requests(edge, keys), len(keys) * 2.0, 0.5)


def requests(edge: Edge, keys: Sequence[str]) -> Iterator[bytes]:
    return (f"GET /json HTTP/1.1\r\nHost: 127.0.0.1:{edge.port}\r\nX-Api-Key: {key}\r\n\r\n".encode() for key in keys)
