"""Soak: load for a long time, and whether memory grows with it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from typing import Final

from benchmarks import budgets, tools
from benchmarks.edge import Edge, start_edge
from benchmarks.machine import Cores, resident
from benchmarks.peers import start_nginx
from benchmarks.programs import ProgramFailed, Programs, free_ports, on_cores, stop
from benchmarks.wrk import parse

EVERY_SECONDS: Final = 2.0
SETTLING: Final = 0.2
"""The first part of the time, in which pools and caches fill, says nothing about the slope."""


def run(programs: Programs, cores: Cores, *, minutes: float) -> int:
    """Load the whole job with access log for `minutes` and print the slope. Returns the exit status."""
    tools.ensure()
    origin_port, unused = free_ports(2)
    start_nginx(programs, "origin", cores.origin, origin_port)
    edge = start_edge(programs, cores, origin=origin_port, demo=unused)
    case = edge.case("edge, whole job, access log", "logged", keyed=True)
    case.check(case.document())
    seconds = minutes * 60
    print(f"soak: {minutes:g} minutes, 64 connections", flush=True)
    command = ["wrk", "-t1", "-c64", f"-d{seconds:.0f}s", "--latency", "--timeout=10s", "-H", f"x-api-key: {edge.key}"]
    load = subprocess.Popen(
        [*command, case.url], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=on_cores(cores.load)
    )
    try:
        samples = watch(programs, edge, load, seconds)
    finally:
        stop(load)
    report = parse(load.stdout.read().decode() if load.stdout else "")
    kept = samples[int(len(samples) * SETTLING) :]
    rise = slope(kept) * 60 / 1024
    print(f"{report.requests:,} requests, {report.rate:,.0f} a second, p99 {report.p99:.2f} ms")
    print(f"memory of the edge: {kept[0][1] / 2**20:.1f} MiB after settling, {kept[-1][1] / 2**20:.1f} MiB at the end")
    print(f"slope: {rise:+.1f} KiB a minute")
    return budgets.verdict("soak", {"slope_kibibytes_per_minute": round(rise, 1)})


def watch(programs: Programs, edge: Edge, load: subprocess.Popen[bytes], seconds: float) -> list[tuple[float, int]]:
    """Memory of the edge process, as (seconds since the start, bytes), until the load ends."""
    samples = []
    start = said = time.monotonic()
    while load.poll() is None:
        programs.check()
        now = time.monotonic()
        if now - start > seconds + 60:
            raise ProgramFailed("the load did not end in time")
        samples.append((now - start, resident(edge.process)))
        if now - said >= 60:
            said = now
            print(f"  {(now - start) / 60:4.1f} min: {samples[-1][1] / 2**20:.1f} MiB", flush=True)
        time.sleep(EVERY_SECONDS)
    if len(samples) < 10:
        raise ProgramFailed("the load ended before there was anything to measure")
    return samples


def slope(samples: Sequence[tuple[float, float]]) -> float:
    """Least-squares slope of the second over the first."""
    mean_x = sum(x for x, _ in samples) / len(samples)
    mean_y = sum(y for _, y in samples) / len(samples)
    spread = sum((x - mean_x) ** 2 for x, _ in samples)
    return sum((x - mean_x) * (y - mean_y) for x, y in samples) / spread
