"""Fallback: what a route does when its upstream refuses or fails: it calls another one, or gives a fixed reply."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from gateway.exchange import Response
from gateway.http1.grammar import IDEMPOTENT
from gateway.options import Options, Size
from gateway.reply import FixedReply, ReplyOptions
from gateway.upstream.failure import UNSENT, Failure, failure_of, spelled_out

if TYPE_CHECKING:
    from gateway.metrics import Metrics


class FallbackOptions(Options):
    """What is done when the upstream refuses (a circuit is open, or there is no room) or fails: one of two things."""

    upstream: str | None = None
    """Name of another upstream to call. What it answers is the answer, whatever that is."""
    reply: ReplyOptions | None = None
    """A fixed reply to give. With a status that is metered it is billed like any other answer."""
    on: list[Failure] = Field(default=["connect", "timeout", "lost", "malformed", 502, 503, 504], min_length=1)
    """Failures after which this is done, besides refusals."""
    replay_buffer: Size = 64 * 1024
    """Request bodies up to this size are kept until there is a response, so that the other upstream gets them too."""

    @model_validator(mode="after")
    def _does_one_thing(self) -> FallbackOptions:
        if (self.upstream is None) == (self.reply is None):
            raise ValueError("a fallback is another upstream or a reply: write one of `upstream` and `reply`")
        return self


class Fallback:
    """The fallback of one route. `upstream` is the name of the upstream to call; None: `reply` makes the answer."""

    def __init__(self, options: FallbackOptions, route: str, metrics: Metrics) -> None:
        """Raises ValueError if the file of the reply cannot be had."""
        self.upstream = options.upstream
        self.reply = FixedReply(options.reply or ReplyOptions()).response
        self._on = spelled_out(options.on) | {"refused"}
        self._route = route
        self._taken = metrics.counter(
            "tallygate_fallbacks_total",
            "Calls that a route's fallback answered, by what went wrong.",
            ("route", "reason"),
        )

    def takes(self, result: Exception | Response, *, method: str, replayable: bool) -> bool:
        """Whether a call that ended with `result`, of which nothing was forwarded, is answered by the fallback; the
        result is then to be closed.

        Another upstream is called only if the body can be sent again, and what may have been sent already only with a
        method that allows that (RFC 9110 §9.2.2).
        """
        failure = failure_of(result)
        if failure not in self._on:
            return False
        if self.upstream is not None and not (replayable and (failure in UNSENT or method in IDEMPOTENT)):
            return False
        self._taken.labels(self._route, str(failure)).inc()
        return True
