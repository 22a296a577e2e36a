"""Sliding window: how many calls there were lately, how many failed, and how long they took."""

from __future__ import annotations

from typing import Final, NamedTuple

SLOTS: Final = 10
"""The window moves on in steps of a tenth of its length."""


class Totals(NamedTuple):
    """Of the last window: calls, those that failed, and the seconds of the others together."""

    calls: int
    failed: int
    seconds: float

    @property
    def mean_seconds(self) -> float:
        """Of the calls that did not fail; 0 if all did."""
        succeeded = self.calls - self.failed
        return self.seconds / succeeded if succeeded else 0.0


class SlidingWindow:
    """The last `seconds`. Adding is one step, whatever the rate, and memory is SLOTS counts."""

    __slots__ = ("_calls", "_failed", "_seconds", "_slot_seconds", "_ticks", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._slot_seconds = seconds / SLOTS
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._ticks = [-SLOTS] * SLOTS
        self._calls = [0] * SLOTS
        self._failed = [0] * SLOTS
        self._seconds = [0.0] * SLOTS

    def add(self, ok: bool, seconds: float, now: float) -> None:
        """A call ended at `now`."""
        tick = int(now / self._slot_seconds)
        slot = tick % SLOTS
        if self._ticks[slot] != tick:
            self._ticks[slot] = tick
            self._calls[slot] = self._failed[slot] = 0
            self._seconds[slot] = 0.0
        self._calls[slot] += 1
        if ok:
            self._seconds[slot] += seconds
        else:
            self._failed[slot] += 1

    def totals(self, now: float) -> Totals:
        """What ended within the window."""
        oldest = int(now / self._slot_seconds) - SLOTS + 1
        live = [slot for slot in range(SLOTS) if self._ticks[slot] >= oldest]
        return Totals(
            sum(self._calls[slot] for slot in live),
            sum(self._failed[slot] for slot in live),
            sum(self._seconds[slot] for slot in live),
        )
