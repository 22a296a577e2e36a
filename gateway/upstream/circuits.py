"""Circuits: all that stand between calls and one upstream: one to each target, and one to the upstream as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from gateway.upstream.breaker import WHOLE_UPSTREAM, Breaker, CircuitBreakerOptions
from gateway.upstream.target import Target, TargetState

if TYPE_CHECKING:
    from gateway.metrics import Metrics


class Circuits:
    """`whole` is the upstream's. A target's is kept for as long as the target is known, reloads included."""

    def __init__(self, options: CircuitBreakerOptions, upstream: str, metrics: Metrics, *, route: str = "") -> None:
        """`route` names the one that has these for its own calls; empty for those that all routes share."""
        self.options = options
        self._upstream = upstream
        self._route = route
        self._metrics = metrics
        self.whole = Breaker(options, upstream, WHOLE_UPSTREAM, metrics, route=route)
        self._to_targets: WeakKeyDictionary[TargetState, Breaker] = WeakKeyDictionary()

    def known(self, target: Target) -> Breaker | None:
        """The circuit to one target, if any call has needed it."""
        return self._to_targets.get(target.state)

    def to(self, target: Target) -> Breaker:
        """The circuit to one target."""
        breaker = self._to_targets.get(target.state)
        if breaker is None:
            breaker = Breaker(self.options, self._upstream, target.name, self._metrics, route=self._route)
            self._to_targets[target.state] = breaker
        return breaker
