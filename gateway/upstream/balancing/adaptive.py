"""Adaptive: of two targets drawn at random, the one where a call is expected to cost less time.

    expected = latency × penalty × crowding × distance
    cost     = expected × (in flight + 1) / (weight × ramp)

- Two at random, not the best of all (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001):
  nearly as good, and processes that know the same do not all rush to the same target. Only if both are bad, by DEAR
  times what is usual, is the best of all taken: of five targets with two bad ones, every tenth draw would be those two.
- `latency` is a peak-EWMA, as in Finagle's `PeakEwma`: an answer slower than the average replaces it at once, a faster
  one pulls it down with weight 1 - e^(-t/decay), t being the seconds since the answer before. A spike is felt at once
  and forgiven slowly. Unlike Finagle's, an average that nobody refreshes goes to what is usual for all targets instead
  of zero: a slow target that was left alone is tried again as one among others, not as the best of all.
- `penalty` is 1 / (1 - failing), how often a call is expected to be made until it succeeds. `failing` is the share of
  failures: quick to rise, slow to fall, and forgotten like a latency. A failure never lowers a latency, or a target
  that fails fast would look fast; nor does an answer that nobody waited for.
- `crowding` is 1 / (1 - utilization) for a target that reports its utilization (`load_report.py`): how waiting grows
  with it in a queue (M/M/1). A report counts for REPORT_SECONDS.
- `distance` is 1, or `other_zone` for a target in another zone.
- `ramp` grows from RAMP_FROM to 1 over `slow_start` after a target became available, as in Envoy's slow start with
  aggression 1: connections, caches and compilers have to warm up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from math import exp, inf
from random import Random
from typing import Final, Literal

from pydantic import Field

from gateway.exchange import Request
from gateway.header_options import FieldName
from gateway.options import Duration, Options
from gateway.upstream.balancing.balancer import Balancer, unless_avoided
from gateway.upstream.balancing.load_report import utilization
from gateway.upstream.target import Target

DEAR: Final = 5.0
"""How many times the usual a call may be expected to take before more than two targets are looked at."""
RISE: Final = 0.3
FALL: Final = 0.1
"""What one failure, and one success, weighs in the share of failures."""
LEAST_SUCCESS: Final = 0.05
"""Nobody is taken to fail more often than in 19 of 20 calls, else nothing would ever be tried again."""
LEAST_IDLE: Final = 0.05
LEAST_SECONDS: Final = 1e-6
REPORT_SECONDS: Final = 10.0
RAMP_FROM: Final = 0.1
HEAVIEST: Final = 100
"""The most usual requests that one may say it is as heavy as."""


class AdaptiveOptions(Options):
    """`adaptive`: the better of two targets drawn at random, by latency, calls in flight, failures and load reports."""

    name: Literal["adaptive"]
    """How a target is picked."""
    decay: Duration = Field(default=10.0, gt=0)
    """How long a spike of latency is remembered: after this time it counts for about a third."""
    slow_start: Duration = 10.0
    """How long a target that became available takes to get its full share."""
    zone: str | None = None
    """Where this gateway runs; targets of another `zone` are taken to cost more."""
    other_zone: float = Field(default=2.0, ge=1)
    """How many times more a call to another zone is taken to cost."""
    load_reports: bool = False
    """Whether targets say in `endpoint-load-metrics` how busy they are (ORCA, text form)."""
    weight_field: FieldName | None = None
    """Header field of requests that says how many usual ones they are as heavy as, from 1 to 100."""


class Observed:
    """What is known of a target's answers. Times are seconds; `latency` is 0 until there was an answer."""

    __slots__ = ("available_since", "failing", "heard_at", "latency", "reported_at", "utilization")

    def __init__(self) -> None:
        self.latency = 0.0
        self.failing = 0.0
        self.heard_at = -inf
        self.utilization = 0.0
        self.reported_at = -inf
        self.available_since = -inf


class Adaptive(Balancer):
    """Keeps what it learns in `TargetState.observed`.

    What is usual is an average of all answers' latencies too, of their logarithms: a few very slow ones hardly count.
    """

    wants_feedback = True

    def __init__(self, options: AdaptiveOptions, rng: Random) -> None:
        super().__init__()
        self.wants_reports = options.load_reports
        self._decay = options.decay
        self._slow_start = options.slow_start
        self._zone, self._other_zone = options.zone, options.other_zone
        self._weight_field = options.weight_field
        self._random = rng.random
        self._usual = 1.0  # any, as long as nothing is known
        self._heard_at = -inf

    def inherit(self, previous: Adaptive) -> None:
        super().inherit(previous)
        self._usual, self._heard_at = previous._usual, previous._heard_at

    def use(self, targets: Iterable[Target], now: float) -> None:
        """Those that come to a list that was not empty start slowly."""
        known = {target.name for target in self.targets}
        super().use(targets, now)
        for target in self.targets:
            observed = target.state.observed
            if observed is None:
                observed = target.state.observed = Observed()
            if known and target.name not in known:
                observed.available_since = now

    def pick(self, request: Request, now: float, avoid: Collection[Target] = ()) -> Target | None:
        targets = unless_avoided(self.targets, avoid) if avoid else self.targets
        count = len(targets)
        if count < 2:
            return targets[0] if targets else None
        first = int(self._random() * count)
        second = int(self._random() * (count - 1))
        picked, other = targets[first], targets[second if second < first else second + 1]
        cost, expected = self.costs(picked, now)
        other_costs = self.costs(other, now)
        if other_costs[0] < cost:
            picked, expected = other, other_costs[1]
        if expected > DEAR * self._usual:
            return min(targets, key=lambda target: self.costs(target, now))
        return picked

    def costs(self, target: Target, now: float) -> tuple[float, float]:
        """What another call to this target costs, and what it is expected to take, in seconds: the formulas above."""
        state = target.state
        observed = state.observed or _observed(target)
        kept = exp((observed.heard_at - now) / self._decay)
        expected = self._usual + (observed.latency - self._usual) * kept
        if observed.failing:
            expected /= max(1 - observed.failing * kept, LEAST_SUCCESS)
        if now - observed.reported_at < REPORT_SECONDS:
            expected /= max(1 - observed.utilization, LEAST_IDLE)
        if self._zone is not None and target.zone != self._zone:
            expected *= self._other_zone
        cost = expected * (state.in_flight + 1) / target.weight
        age = now - observed.available_since
        if age < self._slow_start:
            cost /= max(age / self._slow_start, RAMP_FROM)
        return cost, expected

    def weigh(self, request: Request) -> int:
        field = self._weight_field
        said = request.headers.get(field) if field is not None else None
        return max(1, min(HEAVIEST, int(said))) if said and said.isdecimal() and len(said) < 10 else 1

    def answered(self, target: Target, seconds: float, ok: bool | None, now: float, weight: int = 1) -> None:
        state = target.state
        state.in_flight -= weight
        observed = state.observed or _observed(target)
        kept = exp((observed.heard_at - now) / self._decay)
        observed.heard_at = now
        observed.failing *= kept
        if ok:
            observed.failing *= 1 - FALL
            usual_kept = exp((self._heard_at - now) / self._decay)
            self._usual = self._usual**usual_kept * (seconds or LEAST_SECONDS) ** (1 - usual_kept)
            self._heard_at = now
            observed.latency = max(seconds, seconds + (observed.latency - seconds) * kept)
        else:
            if ok is not None:
                observed.failing += (1 - observed.failing) * RISE
            observed.latency = max(seconds, self._usual + (observed.latency - self._usual) * kept)

    def reported(self, target: Target, report: str, now: float) -> None:
        busy = utilization(report)
        if busy is not None:
            observed = _observed(target)
            observed.utilization, observed.reported_at = busy, now


def _observed(target: Target) -> Observed:
    observed = target.state.observed
    if observed is None:  # of a target that is not in use: a call that was sent before the list changed
        observed = target.state.observed = Observed()
    return observed
