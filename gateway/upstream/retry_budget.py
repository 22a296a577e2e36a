"""Retry budget: retries are a share of the requests, so that an upstream in trouble does not get all the more of them.

As in Finagle (https://finagle.github.io/blog/2016/02/08/retry-budgets): every request pays a little in, every retry
takes one out, and what was paid in expires. A minimum lets an upstream with few requests be retried at all.
"""

from __future__ import annotations

from typing import Final

from gateway.upstream.window import Window

WINDOW_SECONDS: Final = 10.0
"""How long a request pays for retries, as in Finagle."""
_REQUESTS, _RETRIES = range(2)


class RetryBudget:
    """One upstream's. `share` is retries per request; `minimum`, retries a second that are allowed without any."""

    __slots__ = ("_reserve", "_share", "_window")

    def __init__(self, share: float, minimum: float) -> None:
        self._share = share
        self._reserve = minimum * WINDOW_SECONDS
        self._window = Window(WINDOW_SECONDS, kinds=2)

    def pay_in(self, now: float) -> None:
        """A request begins."""
        window = self._window
        if now >= window.ends_at:
            window.turn(now)
        window.totals[_REQUESTS] += 1

    def take_out(self, now: float) -> bool:
        """Whether one more retry, or hedge, is paid for; if so it is taken."""
        held = self._window.held
        if held(_RETRIES, now) + 1 > self._share * held(_REQUESTS, now) + self._reserve:
            return False
        self._window.totals[_RETRIES] += 1
        return True
