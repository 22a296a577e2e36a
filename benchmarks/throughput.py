"""The main benchmark: the edge against nginx, at saturation and at equal offered load, on a core of its own.

Every round measures every case, in an order that turns, so that a slow minute of the machine touches all of them; the
medians over the rounds are compared, never figures of two runs.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Final

from benchmarks import wrk
from benchmarks.cases import Case
from benchmarks.machine import BusyMeter, Cores, busiest
from benchmarks.paced import Latencies
from benchmarks.programs import ProgramFailed, on_cores

WHOLE_JOB: Final = "edge, whole job"
AUTHORIZED: Final = "edge, whole job, authorize"
LOGGED: Final = "edge, whole job, access log"
BARE: Final = "edge, bare proxy"
NGINX: Final = "nginx, bare proxy"
LUA: Final = "nginx+Lua, whole job"
VARIED: Final = "edge, whole job, varied"
VARIED_LUA: Final = "nginx+Lua, whole job, varied"
ORIGIN: Final = "origin, no proxy"

CONNECTIONS: Final = (64, 32, 16)
"""Tried in this order: a round in which load or origin were too busy is repeated with fewer connections."""
LATENCY_CONNECTIONS: Final = 32


@dataclass(slots=True)
class Measured:
    """All rounds of one case."""

    case: Case
    rounds: list[wrk.Round] = field(default_factory=list)
    latencies: list[Latencies] = field(default_factory=list)
    invalid: int = 0

    @property
    def rate(self) -> float:
        return statistics.median(each.load.rate for each in self.rounds)

    @property
    def p50(self) -> float:
        return statistics.median(each.p50 for each in self.latencies)

    @property
    def p99(self) -> float:
        return statistics.median(each.p99 for each in self.latencies)

    def median(self, share: str) -> float:
        return float(statistics.median(getattr(each, share) for each in self.rounds))


def saturate(measured: list[Measured], cores: Cores, *, rounds: int, seconds: float) -> None:
    """Find what each case can take. Every case gets `rounds` valid rounds, or ProgramFailed is raised."""
    for each in measured:
        wrk.run(each.case, cores.load, connections=CONNECTIONS[0], seconds=1)
    for number in range(rounds):
        turn = number % len(measured)
        for each in measured[turn:] + measured[:turn]:
            each.rounds.append(_valid_round(each, cores, seconds))
            print(f"  round {number + 1}: {each.case.name:30} {each.rounds[-1].load.rate:9,.0f} requests/s", flush=True)


def _valid_round(measured: Measured, cores: Cores, seconds: float) -> wrk.Round:
    for connections in CONNECTIONS:
        made = wrk.measure(measured.case, cores, connections=connections, seconds=seconds)
        if made.valid:
            return made
        measured.invalid += 1
        print(
            f"  invalid: {measured.case.name}, {connections} connections:"
            f" origin {made.origin_busy:.0%}, load {made.load_busy:.0%} busy",
            flush=True,
        )
    raise ProgramFailed(f"{measured.case.name}: origin or load limit it, with any number of connections")


def offer(measured: list[Measured], cores: Cores, *, rate: float, rounds: int, seconds: float) -> None:
    """Offer every case the same `rate` and note the latencies."""
    for number in range(rounds):
        turn = number % len(measured)
        for each in measured[turn:] + measured[:turn]:
            each.latencies.append(_valid_pace(each, cores, rate, seconds))


def _valid_pace(measured: Measured, cores: Cores, rate: float, seconds: float) -> Latencies:
    """A paced load during which neither load nor origin were short of time; tried three times."""
    for _ in range(3):
        meter = BusyMeter()
        latencies = pace(measured.case, cores, rate, seconds)
        shares = meter.read()
        if latencies.rate >= 0.95 * rate and busiest(shares, cores.load | cores.origin) <= wrk.BUSY_LIMIT:
            return latencies
        measured.invalid += 1
    raise ProgramFailed(f"{measured.case.name} does not keep up with {rate:,.0f} requests a second")


def pace(case: Case, cores: Cores, rate: float, seconds: float) -> Latencies:
    """Run the paced load generator on the load's core."""
    command = [sys.executable, "-m", "benchmarks.paced", "--port", str(case.port), "--path", case.path]
    command += ["--rate", f"{rate:g}", "--seconds", f"{seconds:g}", "--connections", str(LATENCY_CONNECTIONS)]
    for name, value in case.headers.items():
        command += ["--header", f"{name}: {value}"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=3 * seconds + 30, preexec_fn=on_cores(cores.load)
    )
    if done.returncode != 0:
        raise ProgramFailed(f"paced load on {case.name} failed: {done.stderr.strip()[-500:]}")
    return Latencies(**json.loads(done.stdout))


def ratios(by_name: dict[str, Measured]) -> dict[str, float]:
    """What the budgets are about: the edge's rates by its peers', per core."""
    wanted = {
        "whole_job_vs_nginx_lua": (WHOLE_JOB, LUA),
        "authorized_vs_nginx_lua": (AUTHORIZED, LUA),
        "whole_job_logged_vs_nginx_lua": (LOGGED, LUA),
        "whole_job_varied_vs_nginx_lua": (VARIED, VARIED_LUA),
        "bare_vs_nginx": (BARE, NGINX),
        "whole_job_vs_bare": (WHOLE_JOB, BARE),
        "nginx_lua_vs_nginx": (LUA, NGINX),
    }
    return {
        name: round(by_name[ours].rate / by_name[theirs].rate, 3)
        for name, (ours, theirs) in wanted.items()
        if ours in by_name and theirs in by_name
    }
