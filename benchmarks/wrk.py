"""wrk: as many requests as the measured thing can take, and what it said about them."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.cases import Case
from benchmarks.machine import BusyMeter, Cores, busiest
from benchmarks.programs import ProgramFailed, on_cores

BUSY_LIMIT: Final = 0.9
_VARIED: Final = Path(__file__).parent / "peers" / "varied.lua"
_MILLISECONDS: Final = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0, "h": 3_600_000.0}


@dataclass(frozen=True, slots=True)
class Load:
    """One run of wrk: requests a second, latencies in milliseconds, and how many requests there were."""

    rate: float
    p50: float
    p99: float
    requests: int


@dataclass(frozen=True, slots=True)
class Round:
    """One round of one case. Shares are 0.0 to 1.0 of a core's time, of the busiest where there are several."""

    load: Load
    connections: int
    proxy_busy: float
    origin_busy: float
    load_busy: float
    stores_busy: float

    @property
    def valid(self) -> bool:
        """Whether the proxy was what limited the rate, rather than what stands before or behind it."""
        return self.origin_busy <= BUSY_LIMIT and self.load_busy <= BUSY_LIMIT


def parse(output: str) -> Load:
    """Read wrk's report (with --latency). Raises ProgramFailed where a request failed or the report is not one."""
    failures = re.search(r"Non-2xx or 3xx responses: \d+|Socket errors: .*[1-9].*", output)
    if failures:
        raise ProgramFailed(f"requests failed under load ({failures[0].strip()})")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    total = re.search(r"(\d+) requests in", output)
    p50, p99 = _percentile(output, "50"), _percentile(output, "99")
    if rate is None or total is None or p50 is None or p99 is None:
        raise ProgramFailed(f"wrk's report is not understood:\n{output}")
    return Load(float(rate[1]), p50, p99, int(total[1]))


def _percentile(output: str, which: str) -> float | None:
    match = re.search(rf"^\s+{which}%\s+([\d.]+)(us|ms|s|m|h)\s*$", output, re.MULTILINE)
    return float(match[1]) * _MILLISECONDS[match[2]] if match else None


def run(case: Case, cores: frozenset[int], *, connections: int, seconds: float) -> Load:
    """Load one case from `cores`."""
    threads = len(cores)
    command = ["wrk", f"-t{threads}", f"-c{max(connections, threads)}", f"-d{seconds:g}s", "--latency", "--timeout=10s"]
    for name, value in case.headers.items():
        command += ["-H", f"{name}: {value}"]
    if case.varied:
        command += ["-s", str(_VARIED)]
    done = subprocess.run(
        [*command, case.url],
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + 30,
        preexec_fn=on_cores(cores),
    )
    if done.returncode != 0:
        raise ProgramFailed(f"wrk failed on {case.name}: {done.stderr.strip() or done.stdout.strip()}")
    return parse(done.stdout)


def measure(case: Case, cores: Cores, *, connections: int, seconds: float) -> Round:
    """One round: the load, and how busy the cores were meanwhile."""
    meter = BusyMeter()
    load = run(case, cores.load, connections=connections, seconds=seconds)
    shares = meter.read()
    return Round(
        load,
        connections,
        proxy_busy=busiest(shares, cores.proxy),
        origin_busy=busiest(shares, cores.origin),
        load_busy=busiest(shares, cores.load),
        stores_busy=busiest(shares, cores.stores),
    )
