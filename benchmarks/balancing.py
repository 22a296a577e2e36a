"""Balancing: what one slow and one flapping target among five do to the slowest answers, with each balancer.

A simulation of events, not of bytes: calls arrive at random, targets have workers and a queue, and several processes
of the gateway know only what they have seen themselves. It shows what the algorithms are worth; with the same seeds it
always gives the same figures.
"""

from __future__ import annotations

import heapq
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, TypeAlias

from benchmarks import budgets
from benchmarks.report import table
from gateway.exchange import Request
from gateway.headers import Headers
from gateway.upstream.balancing.adaptive import Adaptive, AdaptiveOptions
from gateway.upstream.balancing.balancer import Balancer
from gateway.upstream.balancing.least_connections import LeastConnections
from gateway.upstream.balancing.round_robin import RoundRobin
from gateway.upstream.target import Target, TargetOptions

PROCESSES: Final = 4
RATE: Final = 1000.0
"""Calls a second, of all processes together."""
SECONDS: Final = 60.0
SEEDS: Final = (1, 2, 3, 4, 5)
WORKERS: Final = 32
"""Calls that a target works on at the same time; more wait in its queue."""
FEW_WORKERS: Final = 3
"""With so many, five sound targets are busy for three quarters of the time."""
USUAL: Final = 0.010
"""Seconds within which a sound target has done half of its calls."""
SPREAD: Final = 0.5
"""Sigma of the log-normal distribution of a sound target's times: its 99th percentile is three times its median."""
SLOW: Final = 10.0
"""How many times longer the slow target takes."""
PERIOD: Final = 8.0
SICK: Final = 2.0
"""The flapping target is sick for the last SICK seconds of every PERIOD: half of its calls hang, half fail at once."""
HANGS: Final = 1.0

_REQUEST: Final = Request("GET", "/", Headers())

Temper: TypeAlias = Callable[[Random, float], tuple[float, bool]]
"""How a target does a call that it begins at some time: in how many seconds, and whether well."""
Make: TypeAlias = Callable[[Random], Balancer]

BALANCERS: Final[dict[str, Make]] = {
    "round_robin": RoundRobin,
    "least_connections": LeastConnections,
    "adaptive": lambda rng: Adaptive(AdaptiveOptions(name="adaptive"), rng),
}


def sound(rng: Random, now: float) -> tuple[float, bool]:
    """An ordinary target."""
    del now
    return USUAL * rng.lognormvariate(0.0, SPREAD), True


def slow(rng: Random, now: float) -> tuple[float, bool]:
    """A target that takes longer."""
    seconds, ok = sound(rng, now)
    return SLOW * seconds, ok


def flapping(rng: Random, now: float) -> tuple[float, bool]:
    """A target that is sound for a while, then sick, then sound again."""
    if now % PERIOD < PERIOD - SICK:
        return sound(rng, now)
    return (HANGS, True) if rng.random() < 0.5 else (0.001, False)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A call on its way: which process sent it where, and when."""

    balancer: Balancer
    target: Target
    sent_at: float


@dataclass(slots=True)
class Server:
    """What stands behind a target."""

    temper: Temper
    calls: int = 0
    busy: int = 0
    queue: deque[Attempt] = field(default_factory=deque)


class Simulation:
    """Calls that arrive for `seconds`, and what becomes of them: `taken` is the seconds of each, `failed` how many."""

    def __init__(
        self, make: Make, tempers: Sequence[Temper], workers: int, seed: int, seconds: float = SECONDS
    ) -> None:
        self._rng = Random(seed)
        self._workers = workers
        self._seconds = seconds
        self._events: list[tuple[float, int, Any]] = []
        self._scheduled = 0
        self.servers = [Server(temper) for temper in tempers]
        self._behind: dict[Target, Server] = {}
        self._balancers = [self._process(make, Random(f"{seed}/{number}")) for number in range(PROCESSES)]
        self.taken: list[float] = []
        self.failed = 0

    def run(self) -> Simulation:
        """From the first arrival to the last answer."""
        self._schedule(0.0, None)
        while self._events:
            now, _, ended = heapq.heappop(self._events)
            if ended is None:
                self._arrive(now)
            else:
                self._end(now, *ended)
        return self

    def quantile(self, share: float) -> float:
        """Of what calls took, in milliseconds."""
        return sorted(self.taken)[int(share * len(self.taken))] * 1000

    def _process(self, make: Make, rng: Random) -> Balancer:
        targets = [Target(TargetOptions(url=f"http://target-{number}")) for number in range(len(self.servers))]
        self._behind |= zip(targets, self.servers, strict=True)
        balancer = make(rng)
        balancer.use(targets, 0.0)
        return balancer

    def _schedule(self, at: float, event: tuple[Server, Attempt, bool] | None) -> None:
        self._scheduled += 1
        heapq.heappush(self._events, (at, self._scheduled, event))

    def _arrive(self, now: float) -> None:
        balancer = self._rng.choice(self._balancers)
        target = balancer.pick(_REQUEST, now)
        assert target is not None
        balancer.sent(target, now)
        server = self._behind[target]
        server.calls += 1
        attempt = Attempt(balancer, target, now)
        if server.busy < self._workers:
            self._begin(now, server, attempt)
        else:
            server.queue.append(attempt)
        arrival = now + self._rng.expovariate(RATE)
        if arrival < self._seconds:
            self._schedule(arrival, None)

    def _begin(self, now: float, server: Server, attempt: Attempt) -> None:
        server.busy += 1
        seconds, ok = server.temper(self._rng, now)
        self._schedule(now + seconds, (server, attempt, ok))

    def _end(self, now: float, server: Server, attempt: Attempt, ok: bool) -> None:
        seconds = now - attempt.sent_at
        attempt.balancer.answered(attempt.target, seconds, ok, now)
        self.taken.append(seconds)
        self.failed += not ok
        server.busy -= 1
        if server.queue:
            self._begin(now, server, server.queue.popleft())


def compare(title: str, tempers: Sequence[Temper], workers: int) -> dict[str, float]:
    """Print how each balancer does, medians of several runs; returns their p99 in milliseconds."""
    rows = [(title, "p50 ms", "p99 ms", "p99.9 ms", "failed", "calls of each target")]
    found = {}
    for name, make in BALANCERS.items():
        runs = [Simulation(make, tempers, workers, seed).run() for seed in SEEDS]
        p50, p99, p999 = (statistics.median(run.quantile(share) for run in runs) for share in (0.5, 0.99, 0.999))
        failed = statistics.median(run.failed / len(run.taken) for run in runs)
        shares = " ".join(f"{server.calls / len(runs[0].taken):.1%}" for server in runs[0].servers)
        rows.append((name, f"{p50:.1f}", f"{p99:.1f}", f"{p999:.1f}", f"{failed:.2%}", shares))
        found[name] = p99
    print(table(rows), end="\n\n", flush=True)
    return found


def run() -> int:
    """Compare the balancers where targets differ and where they do not. Returns the exit status."""
    sick = compare("three sound, one slow, one flapping", [sound, sound, sound, slow, flapping], WORKERS)
    well = compare("five sound, all busy", [sound] * 5, FEW_WORKERS)
    return budgets.verdict(
        "balancing",
        {
            "p99_vs_round_robin": round(sick["adaptive"] / sick["round_robin"], 3),
            "p99_vs_least_connections": round(sick["adaptive"] / sick["least_connections"], 3),
            "p99_vs_least_connections_if_all_are_sound": round(well["adaptive"] / well["least_connections"], 3),
        },
    )
