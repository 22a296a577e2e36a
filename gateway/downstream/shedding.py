"""Shedding: refuses a growing share of requests while the event loop cannot keep up, so that the others are served.

The law is CoDel's (RFC 8289), with the event loop's lag as the time that work spends in the queue. Lag counts only if
it stays above a bound for a whole interval: a queue that drains within that is no overload but a burst. While it stays,
refusals grow, each time sooner: after interval/√n. Where CoDel stops at once, the share sinks by one step for each calm
interval here, because the effect of refusing a share is seen later than that of dropping a packet.
"""

from __future__ import annotations

import logging
from math import sqrt
from random import Random
from typing import TYPE_CHECKING, Final

from pydantic import Field

from gateway.options import Duration, Options, Rate
from gateway.problem import Overloaded, retry_after

if TYPE_CHECKING:
    from gateway.metrics import Metrics

log = logging.getLogger(__name__)

STEPS: Final = 10
"""How many steps there are from nothing to the largest share."""
CALM: Final = 0.5
"""Lag below this part of the bound is calm; what lies between changes nothing (hysteresis)."""


class SheddingOptions(Options):
    """Refusing requests, with 503, while the event loop cannot keep up."""

    lag: Duration = Field(default=0.1, gt=0)
    """How late the event loop may be for longer than the interval."""
    interval: Duration = Field(default=1.0, ge=0.5)
    """How long it must be late before requests are refused, and calm before fewer are."""
    max_share: Rate = Field(default=0.9, gt=0, le=1)
    """The largest share of requests that is refused; routes that are not `sheddable` are left alone."""


class Shedding:
    """One process's. `share` is the part of the requests to refuse now: 0.0 when all is well."""

    def __init__(self, options: SheddingOptions, metrics: Metrics, random: Random) -> None:
        self.options = options
        self.share = 0.0
        self._step = 0
        self._side = 0  # of the bound that the lag is on: 1 above, -1 calm, 0 between
        self._changes = 0  # of the share, since it is on that side
        self._change_at = 0.0
        self._random = random.random
        self._shed = metrics.counter("tallygate_shed_requests_total", "Requests refused because of overload.")

    def inherit(self, previous: Shedding) -> None:
        """Go on as far as the one of other options had come that this takes the place of."""
        self._step = previous._step
        self.share = self._share()

    def observe(self, lag: float, now: float) -> None:
        """The event loop was late by `lag` seconds; to be told several times per interval."""
        options = self.options
        side = 1 if lag > options.lag else -1 if lag < options.lag * CALM else 0
        if side != self._side:
            self._side = side
            self._changes = 0
            self._change_at = now + options.interval
        elif side and now >= self._change_at:
            self._changes += 1
            self._change_at = now + (options.interval / sqrt(self._changes) if side > 0 else options.interval)
            self._go_to(min(STEPS, max(0, self._step + side)))

    def refuses(self) -> bool:
        """Whether to refuse a request. Ask only if `share` is not 0.0, and not for a request that is never refused."""
        refused = self._random() < self.share
        if refused:
            self._shed.inc()
        return refused

    def problem(self) -> Overloaded:
        """The refusal. It asks the client to wait for as long as it takes, at best, until nothing is refused."""
        return Overloaded("The gateway is overloaded.", headers=retry_after(self._step * self.options.interval))

    def _go_to(self, step: int) -> None:
        if (step > 0) != (self._step > 0):
            log.warning("overload: %s", "requests are refused" if step else "it is over, nothing is refused any more")
        self._step = step
        self.share = self._share()

    def _share(self) -> float:
        return self.options.max_share * self._step / STEPS
