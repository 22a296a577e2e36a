"""Retry: whether a failed attempt is repeated, and when; and whether a slow one gets company.

Nothing here waits, reads a clock or sends: whoever makes the attempts is told how long to wait.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import inf
from random import Random
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from gateway.exchange import Response
from gateway.headers import Headers
from gateway.http1.grammar import IDEMPOTENT
from gateway.options import Duration, Options, Rate, Size
from gateway.upstream.failure import UNSENT, Failure, failure_of, spelled_out
from gateway.upstream.retry_budget import RetryBudget

if TYPE_CHECKING:
    from gateway.metrics import Metrics

Method: TypeAlias = Literal["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"]


class HedgeOptions(Options):
    """A second attempt beside a slow one; the first response wins. Only for idempotent requests without a body."""

    after: Duration = Field(gt=0)
    """How long an attempt may go without a response before another is sent to another target."""
    max: int = Field(default=1, ge=1, le=5)
    """Further attempts that one call may be given this way; each is paid from the budget."""


class RetryOptions(Options):
    """Repeating attempts that failed, as long as not a byte of a response was forwarded."""

    attempts: int = Field(default=3, ge=1, le=10)
    """Attempts of one call, the first included."""
    backoff: Literal["exponential", "constant"] = "exponential"
    """Whether the longest pause doubles with each attempt or stays. A pause is drawn at random from 0 to that."""
    base: Duration = Field(default=0.05, ge=0)
    """Longest pause before the second attempt."""
    max: Duration = 1.0
    """Longest pause at all."""
    per_try_timeout: Annotated[Duration, Field(gt=0)] | None = None
    """How long one attempt may go without the head of a response; then it failed for `timeout`."""
    on: list[Failure] = Field(default=["connect", "lost", 502, 503, 504], min_length=1)
    """Failures after which an attempt is repeated."""
    methods: list[Method] = ["DELETE", "GET", "HEAD", "OPTIONS", "PUT", "TRACE"]
    """Methods whose requests may be sent twice. What failed to `connect` was never sent, and is repeated for any."""
    max_retry_after: Duration = 5.0
    """A pause that the target asks for with Retry-After is added up to this length; if longer, there is no retry."""
    budget: Rate = Field(default=0.2, ge=0, le=1)
    """Retries and hedges of the last ten seconds, as a share of the requests in one process."""
    budget_minimum: float = Field(default=10.0, ge=0)
    """Retries a second that one process may make whatever the share."""
    replay_buffer: Size = 64 * 1024
    """Request bodies up to this size are kept until there is a response, so that they can be sent again."""
    hedge: HedgeOptions | None = None
    """A second attempt beside a slow first one."""

    @model_validator(mode="after")
    def _pauses_fit(self) -> RetryOptions:
        if self.max < self.base:
            raise ValueError("`max` is the longest pause at all: write at least the length of `base`")
        return self


class Retry:
    """The retries of one upstream, in one process.

    `hedge_after` is the seconds after which a slow call may be hedged, or None for never.
    """

    def __init__(self, options: RetryOptions, upstream: str, metrics: Metrics, random: Random) -> None:
        self._options = options
        self._on = spelled_out(options.on)
        self._methods = frozenset(options.methods)
        self._hedges = options.hedge.max if options.hedge else 0
        self.hedge_after = options.hedge.after if options.hedge else None
        self._budget = RetryBudget(options.budget, options.budget_minimum)
        self.begin = self._budget.pay_in
        """A call begins, at `now`: to be told of each call once, for they pay for the retries."""
        self._uniform = random.uniform
        self._upstream = upstream
        self._made = metrics.counter(
            "tallygate_upstream_retries_total",
            "Attempts beyond a call's first, by what went wrong; `slow`: a hedge.",
            ("upstream", "reason"),
        )
        self._unpaid = metrics.counter(
            "tallygate_upstream_retries_unpaid_total",
            "Attempts that were not made because the retry budget was used up.",
            ("upstream", "reason"),
        )

    def deadline(self, now: float, call_deadline: float) -> float:
        """When an attempt that begins now must have the head of its response."""
        limit = self._options.per_try_timeout
        return call_deadline if limit is None else min(now + limit, call_deadline)

    def pause(
        self,
        result: Exception | Response,
        attempt: int,
        *,
        method: str,
        replayable: bool,
        forwarded: bool,
        now: float,
        deadline: float,
    ) -> float | None:
        """Seconds to wait before the next attempt, after the `attempt`-th (from 1) ended with `result`; None: do not.

        `replayable`: the body can be sent again from its first byte. `forwarded`: a byte of a response has left for the
        client. `deadline`: of the whole call. What may have been received is sent again only with a method that allows
        it (RFC 9110 §9.2.2). The attempt is paid for: whoever is told to make it makes it.
        """
        if forwarded or not replayable or attempt >= self._options.attempts:
            return None
        failure = failure_of(result)
        if failure not in self._on or (method not in self._methods and failure not in UNSENT):
            return None
        asked = asked_pause(result.headers) if isinstance(result, Response) else 0.0
        if asked > self._options.max_retry_after:
            return None
        pause = asked + self._uniform(0.0, self.longest_pause(attempt))
        if now + pause >= deadline or not self._pays(str(failure), now):
            return None
        return pause

    def longest_pause(self, attempt: int) -> float:
        """The upper bound of the pause after the `attempt`-th attempt, from which the pause is drawn at random.

        "Full jitter" of https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/: clients that failed
        together do not come back together.
        """
        options = self._options
        grown = options.base if options.backoff == "constant" else options.base * 2 ** (attempt - 1)
        return min(options.max, grown)

    def hedge(self, hedges: int, *, method: str, has_body: bool, now: float) -> bool:
        """Whether a call that has been slow for `hedge_after` may be sent once more, after as many `hedges` before.

        If so it is paid for.
        """
        if hedges >= self._hedges or has_body or method not in IDEMPOTENT or method not in self._methods:
            return False
        return self._pays("slow", now)

    def _pays(self, reason: str, now: float) -> bool:
        paid = self._budget.take_out(now)
        (self._made if paid else self._unpaid).labels(self._upstream, reason).inc()
        return paid


def asked_pause(headers: Headers) -> float:
    """Seconds that Retry-After asks to wait (RFC 9110 §10.2.3), 0.0 if it is not there or makes no sense.

    A date counts from the response's own Date, so that no two clocks are compared; without one it is never: `inf`.
    """
    value = headers.get("retry-after")
    if value is None:
        return 0.0
    if value.isascii() and value.isdigit():
        return float(value)
    until, sent = _date(value), _date(headers.get("date") or "")
    if until is None:
        return 0.0
    return inf if sent is None else max(0.0, (until - sent).total_seconds())


def _date(value: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
