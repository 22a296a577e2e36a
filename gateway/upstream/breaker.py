"""Breaker: stops calling what fails too often, and lets a few calls find out whether it has recovered.

pybreaker is the state machine: its states, transitions and listeners. When to go from one to the next is decided here,
because pybreaker counts failures in a row, reads the wall clock and admits any number of calls while half-open.
"""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING, Any, Final

from pybreaker import STATE_CLOSED, STATE_HALF_OPEN, STATE_OPEN, CircuitBreaker, CircuitBreakerListener
from pydantic import Field

from gateway.options import Duration, Options, Rate
from gateway.upstream.failure import Failure, spelled_out
from gateway.upstream.window import Window

if TYPE_CHECKING:
    from gateway.metrics import Metrics

log = logging.getLogger(__name__)

WHOLE_UPSTREAM: Final = "all"
"""Stands for the target in logs and metrics of the breaker of a whole upstream."""
TRIAL_SECONDS: Final = 1.0
"""When to ask again while all trials of a half-open circuit are under way; nobody knows when they end."""
_ENDED, _FAILED, _SLOW = range(3)
_STATES: Final = {STATE_CLOSED: 0.0, STATE_HALF_OPEN: 1.0, STATE_OPEN: 2.0}


class SlowCallOptions(Options):
    """Slowness that opens the circuit."""

    duration: Duration = Field(gt=0)
    """A call whose response has no head after this long is slow."""
    threshold: Rate = Field(default=0.8, gt=0, le=1)
    """The share of slow calls that opens the circuit."""


class CircuitBreakerOptions(Options):
    """When calls are no longer sent, and when that is tried again; for each target, and for the upstream as a whole."""

    failure_threshold: Rate = Field(default=0.5, gt=0, le=1)
    """The share of failed calls that opens the circuit."""
    slow_call: SlowCallOptions | None = None
    """Slowness that opens the circuit; if absent, none does."""
    minimum_requests: int = Field(default=20, ge=1)
    """Calls that must have ended within the window before their shares mean anything."""
    window: Duration = Field(default=30.0, gt=0)
    """How far back calls are counted."""
    recovery_timeout: Duration = Field(default=60.0, gt=0)
    """How long an open circuit refuses every call, before it is half open."""
    half_open_requests: int = Field(default=3, ge=1)
    """Calls that a half-open circuit lets through. If all succeed it closes; if one fails or is slow it opens again."""
    on: list[Failure] = Field(default=["connect", "timeout", "lost", "malformed", 502, 503, 504], min_length=1)
    """What counts as a failure. A call that the client gave up counts as nothing."""


class Breaker(CircuitBreakerListener):
    """The circuit to one target, or to a whole upstream. It neither waits nor reads a clock: `now` is the loop's time.

    Every call that `admit` lets through ends in exactly one `record` or `abandon`, and `began` is the very `now` of its
    `admit`. `failures` are the statuses and reasons (`failure.py`) that count as failed.
    """

    def __init__(
        self, options: CircuitBreakerOptions, upstream: str, target: str, metrics: Metrics, *, route: str = ""
    ) -> None:
        """`route` names the one that has this circuit for its own calls; empty if all routes share it."""
        self.failures = spelled_out(options.on)
        self._options = options
        self._slow_after = options.slow_call.duration if options.slow_call else inf
        self._slow_threshold = options.slow_call.threshold if options.slow_call else inf
        self._window = Window(options.window, kinds=3)
        self._name = f"upstream {upstream}, target {target}" + (f", route {route}" if route else "")
        self._machine = CircuitBreaker(success_threshold=options.half_open_requests, listeners=[self])
        self._closed = True
        self._trials = 0  # under way, while half-open
        self._since = 0.0  # when this state began
        self._now = 0.0  # for `state_change`: pybreaker does not pass the time on
        self._gauge = metrics.gauge(
            "tallygate_breaker_state", "The circuit: 0 closed, 1 half-open, 2 open.", ("upstream", "target", "route")
        ).labels(upstream, target, route)
        transitions = metrics.counter(
            "tallygate_breaker_transitions_total",
            "Transitions of the circuit, by its new state.",
            ("upstream", "target", "route", "state"),
        )
        self._transitions = {state: transitions.labels(upstream, target, route, state) for state in _STATES}
        self._refusals = metrics.counter(
            "tallygate_breaker_refusals_total",
            "Calls that were not sent because the circuit was open.",
            ("upstream", "target", "route"),
        ).labels(upstream, target, route)

    @property
    def state(self) -> str:
        """`closed`, `half-open` or `open`. An open circuit becomes half-open when it is next asked."""
        return self._machine.current_state

    def admit(self, now: float) -> float:
        """0.0 if a call may be sent; else it may not, and these are the seconds after which to ask again."""
        if self._closed:
            return 0.0
        wait = self._admit_trial(now)
        if wait:
            self._refusals.inc()
        return wait

    def record(self, ok: bool, began: float, now: float) -> None:
        """A call failed, or has the head of its response.

        It counts in the state in which it began: what an older call finds out is no longer news.
        """
        if began < self._since:
            return
        if not self._closed:
            self._end_trial(ok and now - began < self._slow_after, now)
            return
        window = self._window
        if now >= window.ends_at:
            window.turn(now)
        window.totals[_ENDED] += 1
        slow = now - began >= self._slow_after
        if slow or not ok:  # only a bad call ever opens the circuit
            window.totals[_FAILED] += not ok
            window.totals[_SLOW] += slow
            self._judge(now)

    def abandon(self, began: float) -> None:
        """A call tells nothing: its client left, its own body failed, or there was no connection to be had."""
        if began >= self._since and self.state == STATE_HALF_OPEN:
            self._trials -= 1

    def state_change(self, cb: CircuitBreaker, old_state: Any, new_state: Any) -> None:
        """pybreaker tells its listener that a new state begins."""
        state = new_state.name
        log.warning("%s: the circuit is %s: %s", self._name, state, self._why(state))
        self._closed = state == STATE_CLOSED
        self._since = self._now
        self._trials = 0
        self._window.clear()
        self._gauge.set(_STATES[state])
        self._transitions[state].inc()

    def _judge(self, now: float) -> None:
        ended, failed, slow = self._held(now)
        if ended >= self._options.minimum_requests and (
            failed / ended >= self._options.failure_threshold or slow / ended >= self._slow_threshold
        ):
            self._now = now
            self._machine.open()

    def _admit_trial(self, now: float) -> float:
        if self.state == STATE_OPEN:
            recovered_at = self._since + self._options.recovery_timeout
            if now < recovered_at:
                return recovered_at - now
            self._now = now
            self._machine.half_open()
        if self._trials + self._machine.success_counter >= self._options.half_open_requests:
            return TRIAL_SECONDS
        self._trials += 1
        return 0.0

    def _end_trial(self, ok: bool, now: float) -> None:
        if self.state == STATE_HALF_OPEN:
            self._trials -= 1
            self._now = now
            if ok:
                self._machine.state.on_success()
            else:
                self._machine.open()

    def _held(self, now: float) -> tuple[float, float, float]:
        """How many calls the window holds, how many of them failed, and how many were slow."""
        held = self._window.held
        return held(_ENDED, now), held(_FAILED, now), held(_SLOW, now)

    def _why(self, state: str) -> str:
        if state == STATE_HALF_OPEN:
            return "the recovery timeout has passed"
        if state == STATE_CLOSED:
            return "all trials succeeded"
        if not self._closed:
            return "a trial failed or was slow"
        ended, failed, slow = self._held(self._now)
        return f"of the last {ended} calls {failed} failed and {slow} were slow"
