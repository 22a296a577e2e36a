"""Outliers: targets whose calls go worse than they should are ejected for a while; nothing is sent just to find out.

As in Envoy's outlier detection: ejected at once after so many failures in a row, or for a rate of failures or a latency
out of line over a window with enough calls; for a time that grows with each ejection up to a limit, and shrinks again
in good times; and never more than a share of all targets, so that one bad deployment does not take everything out.
Latency is compared as a mean with the median of the other targets' means: one slow target does not move a median.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Final

from pydantic import Field, model_validator

from gateway.options import Duration, Options, Rate
from gateway.upstream.target import Target
from gateway.upstream.window import Window

LEAST_DIFFERENCE: Final = 0.005
"""Seconds by which a latency must exceed the others', whatever the factor: below that it is noise."""
_SUCCEEDED, _FAILED, _SECONDS = range(3)  # what a window holds: calls, and the seconds of those that succeeded


class PassiveOptions(Options):
    """Ejects a target for a while because of what becomes of its calls."""

    failures: int | None = Field(default=5, ge=1)
    """Failures in a row that eject it; null for no such rule."""
    failure_rate: Rate = Field(default=1.0, gt=0, le=1)
    """Share of failed calls within the window that ejects it."""
    slower_than: float | None = Field(default=None, gt=1)
    """How many times the others' latency, their median, ejects it."""
    minimum_requests: int = Field(default=20, ge=1)
    """Calls within the window below which its failure rate and latency say nothing."""
    window: Duration = Field(default=30.0, ge=1.0)
    """How far back failure rate and latency look."""
    ejection: Duration = Field(default=30.0, ge=0.1)
    """For how long it is ejected the first time; the second time twice as long, and so on."""
    longest_ejection: Duration = 300.0
    """The most that an ejection grows to."""
    max_ejected: Rate = Field(default=0.5, ge=0, le=1)
    """Share of the upstream's targets that may be ejected at the same time, rounded down."""

    @model_validator(mode="after")
    def _ejections_can_grow(self) -> PassiveOptions:
        if self.longest_ejection < self.ejection:
            raise ValueError("longest_ejection is shorter than ejection (write at least as much)")
        return self

    def most_of(self, targets: int) -> int:
        """How many of so many targets may be ejected at the same time."""
        return int(targets * self.max_ejected + 1e-9)


class Record:
    """What became of a target's calls. `reason` is why it is ejected, and empty while it is not.

    `back_at` is when it comes back, or was to come back last time.
    """

    __slots__ = ("back_at", "ejections", "failures", "reason", "window")

    def __init__(self) -> None:
        self.failures = 0
        self.window = Window(1.0, kinds=3)
        self.ejections = 0
        self.reason = ""
        self.back_at = 0.0


class Outliers:
    """Judges the targets in `use`. What it knows of each is in `TargetState.record`."""

    def __init__(self, options: PassiveOptions) -> None:
        self._options = options
        self._targets: Sequence[Target] = ()

    def use(self, targets: Iterable[Target]) -> None:
        """These are all there are. If too many of them are ejected now, those come back that would do so first.

        Drained targets are judged too, for the clients they have, but do not make room for ejections.
        """
        self._targets = list(targets)
        for target in self._targets:
            record = target.state.record
            if record is None:
                record = target.state.record = Record()
            if record.window.seconds != self._options.window:
                record.window = Window(self._options.window, kinds=3)
        ejected = sorted(self._ejected(), key=lambda record: record.back_at, reverse=True)
        for record in ejected[self._most() :]:
            self._bring_back(record)

    @staticmethod
    def reason(target: Target) -> str:
        """Why it is ejected: `failures in a row`, `failure rate` or `latency`; empty if it is not."""
        record = target.state.record
        return record.reason if record is not None else ""

    def answered(self, target: Target, seconds: float, ok: bool, now: float) -> bool:
        """A call ended, after `seconds`. Returns whether its target is ejected because of it."""
        record = target.state.record
        if record is None:
            return False  # a target of the past
        window = record.window
        if now >= window.ends_at:
            window.turn(now)
        if ok:
            window.totals[_SUCCEEDED] += 1
            window.totals[_SECONDS] += seconds
            record.failures = 0
            return False
        window.totals[_FAILED] += 1
        record.failures += 1
        most = self._options.failures
        if most is not None and record.failures >= most:
            return self._eject(record, "failures in a row", now)
        if self._failure_rate(record, now) >= self._options.failure_rate:
            return self._eject(record, "failure rate", now)
        return False

    def sweep(self, now: float) -> bool:
        """Ends ejections whose time is over and looks at latencies. Returns whether anything changed."""
        over = [record for record in self._ejected() if record.back_at <= now]
        for record in over:
            self._bring_back(record)
        factor = self._options.slower_than
        slow = self._slower_than(factor, now) if factor is not None else []
        ejected = [record for record in slow if self._eject(record, "latency", now)]
        return bool(over or ejected)

    def _failure_rate(self, record: Record, now: float) -> float:
        failed = record.window.held(_FAILED, now)
        calls = failed + record.window.held(_SUCCEEDED, now)
        return failed / calls if calls >= self._options.minimum_requests else 0.0

    def _slower_than(self, factor: float, now: float) -> list[Record]:
        """The records of targets that are so many times slower than the others, the slowest first."""
        busy: list[tuple[float, Record]] = []
        for target in self._targets:
            record = target.state.record
            if record is not None and not record.reason:
                succeeded = record.window.held(_SUCCEEDED, now)
                if succeeded >= self._options.minimum_requests:
                    busy.append((record.window.held(_SECONDS, now) / succeeded, record))
        busy.sort(key=lambda entry: entry[0], reverse=True)
        found = []
        for place, (mean, record) in enumerate(busy):
            others = [other for at, (other, _) in enumerate(busy) if at != place]
            if others and mean > max(factor * median(others), median(others) + LEAST_DIFFERENCE):
                found.append(record)
        return found

    def _eject(self, record: Record, reason: str, now: float) -> bool:
        if record.reason or len(self._ejected()) >= self._most():
            return False
        good_times = max(0, int((now - record.back_at) / self._options.ejection)) if record.ejections else 0
        record.ejections = max(0, record.ejections - good_times) + 1
        record.reason = reason
        record.back_at = now + min(self._options.ejection * record.ejections, self._options.longest_ejection)
        return True

    @staticmethod
    def _bring_back(record: Record) -> None:
        record.reason = ""
        record.failures = 0
        record.window.clear()

    def _ejected(self) -> list[Record]:
        records = [target.state.record for target in self._targets]
        return [record for record in records if record is not None and record.reason]

    def _most(self) -> int:
        all_to_call = sum(1 for target in self._targets if target.weight)
        return self._options.most_of(all_to_call)
