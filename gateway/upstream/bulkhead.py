"""Bulkhead: at most so many requests in flight, so that one slow service cannot take the whole process with it.

Nothing here waits: a place that is given up goes to whoever has waited longest, in the same stack, and whoever has
waited too long is found by looking (README, decision 4). So there is no moment in which a place has been given but
not yet taken, and none can be lost to a timeout or a cancellation in that moment.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

from pydantic import Field

from gateway.metrics import GaugePart
from gateway.options import Duration, Options
from gateway.problem import Overloaded, retry_after

if TYPE_CHECKING:
    from gateway.metrics import Metrics

Scope: TypeAlias = Literal["upstream", "route"]
RETRY_SECONDS: Final = 1.0
"""What a request that found no place is told to wait."""


class BulkheadOptions(Options):
    """Requests in flight, in one process."""

    max_in_flight: int = Field(ge=1)
    """Requests that may be in flight at once."""
    max_waiting: int = Field(default=100, ge=0)
    """Requests that may wait for others to end; the next one is answered 503 at once."""
    wait_timeout: Duration = Field(default=1.0, gt=0)
    """How long a request waits before it is answered 503."""


class Waiter(Protocol):
    """A request that waits for a place. Exactly one of these is called, once, unless it gives up before."""

    def admitted(self) -> None:
        """It has a place now. Must not raise."""

    def refused(self, problem: Overloaded) -> None:
        """It waited too long. Must not raise."""


class Bulkhead:
    """The places of one upstream or one route. Every place that is taken is given back by one `leave`.

    `free` stays 0 while somebody waits, so nobody overtakes.
    """

    __slots__ = ("_admitting", "_in_flight", "_refused", "_returned", "_waiters", "_waiting", "free", "options")

    def __init__(self, options: BulkheadOptions, scope: Scope, name: str, metrics: Metrics) -> None:
        self.options = options
        self.free = options.max_in_flight
        self._returned = 0  # places given back while others are being handed on
        self._admitting = False
        self._waiters: OrderedDict[Waiter, float] = OrderedDict()  # with when each has waited too long
        in_flight = metrics.gauge(
            "tallygate_bulkhead_in_flight", "Requests in flight behind a bulkhead.", ("scope", "name")
        )
        waiting = metrics.gauge(
            "tallygate_bulkhead_waiting", "Requests that wait for others to end.", ("scope", "name")
        )
        self._in_flight = GaugePart(in_flight.labels(scope, name))
        self._waiting = GaugePart(waiting.labels(scope, name))
        refused = metrics.counter(
            "tallygate_bulkhead_refusals_total",
            "Requests refused because too many were in flight: the queue was `full`, or they waited too long (`late`).",
            ("scope", "name", "reason"),
        )
        self._refused = {reason: refused.labels(scope, name, reason) for reason in ("full", "late")}

    @property
    def in_flight(self) -> int:
        """Requests that have a place."""
        return self.options.max_in_flight - self.free - self._returned

    @property
    def waiting(self) -> int:
        """Requests that wait for one."""
        return len(self._waiters)

    def enter(self, waiter: Waiter, now: float) -> bool:
        """Take a place, if one is free; else queue up for it. Raises Overloaded if the queue is full."""
        if self.free:
            self.free -= 1
            return True
        if len(self._waiters) >= self.options.max_waiting:
            self._refused["full"].inc()
            raise _overloaded()
        self._waiters[waiter] = now + self.options.wait_timeout
        return False

    def give_up(self, waiter: Waiter) -> bool:
        """A waiter waits no longer. False if it does not wait: then it has a place, and must leave."""
        return self._waiters.pop(waiter, None) is not None

    def leave(self) -> None:
        """A request has ended: its place goes to the one that has waited longest, if any waits."""
        if not self._waiters:
            self.free += 1
            return
        self._returned += 1
        if self._admitting:
            return  # an admitted request ended at once: the loop below goes on, instead of the stack growing
        self._admitting = True
        try:
            while self._returned and self._waiters:
                waiter, _ = self._waiters.popitem(last=False)
                self._returned -= 1
                waiter.admitted()
        finally:
            self._admitting = False
            self.free += self._returned
            self._returned = 0

    def look(self, now: float) -> None:
        """Refuse those that have waited too long, and bring the gauges up to date; to be called every 0.1 s or so."""
        while self._waiters:
            waiter, until = next(iter(self._waiters.items()))
            if now < until:
                break
            del self._waiters[waiter]
            self._refused["late"].inc()
            waiter.refused(_overloaded())
        self._in_flight.set(self.in_flight)
        self._waiting.set(self.waiting)


def _overloaded() -> Overloaded:
    return Overloaded("Too many requests are in flight here.", headers=retry_after(RETRY_SECONDS))
