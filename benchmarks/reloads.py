"""Reloads: thousands of them, one after the other, and what the processes that take them keep of each in memory."""

from __future__ import annotations

import http.client
import os
import sys
import time
from typing import Final

from benchmarks import budgets
from benchmarks.edge import Edge, start_edge
from benchmarks.machine import Cores, resident
from benchmarks.memory import get
from benchmarks.programs import ProgramFailed, Programs, accepts, free_ports
from benchmarks.soak import SETTLING, slope

EVERY: Final = 50
"""Reloads between two looks at memory. Before each there is a request: what never serves never fills its caches."""
SAID_EVERY: Final = 1_000

Samples = dict[str, list[tuple[float, float]]]
"""By the name of a process: how many reloads there had been, and the bytes of its memory then."""


def run(programs: Programs, cores: Cores, *, times: int, minutes: float) -> int:
    """Reload `times` times, at most for `minutes`, and print the slopes. Returns the exit status."""
    unused, demo = free_ports(2)
    programs.start("demo", [sys.executable, "-m", "demo", "--port", str(demo)], cores.origin)
    programs.wait_for("the demo upstream", lambda: accepts(demo), seconds=10)
    edge = start_edge(programs, cores, origin=unused, demo=demo)
    start = time.monotonic()
    samples = churn(programs, edge, times, start + minutes * 60)
    seconds, done = time.monotonic() - start, samples["edge"][-1][0]
    each = f"{seconds / done * 1000:.1f} ms each, load average {os.getloadavg()[0]:.1f}"
    print(f"{done:,.0f} reloads in {seconds:.0f} s, {each}")
    measured = {f"{name}_bytes_per_reload": kept(name, found) for name, found in samples.items()}
    return budgets.verdict("reloads", measured)


def churn(programs: Programs, edge: Edge, times: int, deadline: float) -> Samples:
    """Raises ProgramFailed where a reload is refused, or there are too few to say anything."""
    watched = {"edge": edge.process, "supervisor": edge.system}
    samples: Samples = {name: [] for name in watched}
    config = programs.directory / "edge.yaml"
    original = config.read_text()
    for number in range(1, times + 1):
        config.write_text(changed(original, number))
        reload(edge)
        if number % EVERY:
            continue
        programs.check()
        get(edge, "/json")
        for name, pid in watched.items():
            samples[name].append((float(number), float(resident(pid))))
        if number % SAID_EVERY == 0:
            sizes = (f"{name} {found[-1][1] / 2**20:.1f} MiB" for name, found in samples.items())
            print(f"  {number:,} reloads: {', '.join(sizes)}", flush=True)
        if time.monotonic() > deadline:
            break
    if len(samples["edge"]) < 10:
        raise ProgramFailed("too few reloads to say anything")
    return samples


def changed(original: str, number: int) -> str:
    """The configuration with another upstream, another route and other options of a plugin for each number."""
    upstream = f"  extra: {{targets: ['http://127.0.0.1:{10_000 + number % 1000}']}}\n"
    route = f"  - {{name: extra-{number % 10}, match: {{path: /extra/{number}/*}}, upstream: extra}}\n"
    return (
        original.replace("upstreams:\n", "upstreams:\n" + upstream, 1)
        .replace("routes:\n", "routes:\n" + route, 1)
        .replace("- access_log:", f"- access_log: {{query: {str(bool(number % 2)).lower()}}}", 1)
    )


def reload(edge: Edge) -> None:
    """Raises ProgramFailed when the node does not take the configuration."""
    connection = http.client.HTTPConnection("127.0.0.1", edge.admin, timeout=30)
    try:
        connection.request("POST", "/reload")
        response = connection.getresponse()
        said = response.read().decode()
    finally:
        connection.close()
    if response.status != 200:
        raise ProgramFailed(f"a reload was answered {response.status}: {said}")


def kept(name: str, samples: list[tuple[float, float]]) -> float:
    """Bytes that a process keeps of each reload: the slope after the first part, in which caches fill."""
    counted = samples[int(len(samples) * SETTLING) :]
    rise = slope(counted)
    (settled, first), (_, last) = counted[0], counted[-1]
    sizes = f"{first / 2**20:.1f} MiB after {settled:,.0f} reloads, {last / 2**20:.1f} MiB at the end"
    print(f"{name}: {sizes}, {rise:+.0f} bytes each")
    return round(rise, 1)
