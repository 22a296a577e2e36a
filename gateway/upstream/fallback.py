"""Fallback: what a route does when its upstream refuses or fails: it calls another one, or gives a fixed reply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydantic import Field, field_validator, model_validator

from gateway.exchange import Response
from gateway.headers import Headers, valid_field
from gateway.http1.grammar import HOP_BY_HOP, IDEMPOTENT
from gateway.options import Options
from gateway.upstream.failure import UNSENT, Failure, failure_of, spelled_out

if TYPE_CHECKING:
    from gateway.metrics import Metrics

_NOT_TO_BE_SET: Final = HOP_BY_HOP | {"content-length"}


class ReplyOptions(Options):
    """A fixed reply."""

    status: int = Field(default=200, ge=200, le=599)
    """Status of the reply."""
    headers: dict[str, str] = {}
    """Header fields of the reply."""
    body: str = ""
    """Content of the reply, sent as UTF-8."""

    @field_validator("headers")
    @classmethod
    def _fields_can_stand_in_a_reply(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not valid_field(name, text) or name.lower() in _NOT_TO_BE_SET:
                raise ValueError(
                    f"not a header field of a reply: {name!r} (write content-type: text/plain or the like)"
                )
        return value


class FallbackOptions(Options):
    """What is done when the upstream refuses (a circuit is open, or there is no room) or fails: one of two things."""

    upstream: str | None = None
    """Name of another upstream to call."""
    reply: ReplyOptions | None = None
    """A fixed reply to give."""
    on: list[Failure] = ["connect", "timeout", "lost", "malformed", 502, 503, 504]
    """Failures after which this is done, besides refusals, as long as not a byte of a response was forwarded."""

    @model_validator(mode="after")
    def _does_one_thing(self) -> FallbackOptions:
        if (self.upstream is None) == (self.reply is None):
            raise ValueError("a fallback is another upstream or a reply: write one of `upstream` and `reply`")
        return self


class Fallback:
    """The fallback of one route. `upstream` is the name of the upstream to call, or None: then there is a `reply`."""

    def __init__(self, options: FallbackOptions, route: str, metrics: Metrics) -> None:
        self.upstream = options.upstream
        self._on = spelled_out(options.on) | {"refused"}
        reply = options.reply or ReplyOptions()
        self._status, self._body = reply.status, reply.body.encode()
        self._headers = Headers(reply.headers)
        self._route = route
        self._taken = metrics.counter(
            "tallygate_fallbacks_total",
            "Calls that a route's fallback answered, by what went wrong.",
            ("route", "reason"),
        )

    def takes(self, result: Exception | Response, *, method: str, replayable: bool, forwarded: bool) -> bool:
        """Whether a call that ended with `result` is answered by the fallback; the result is then to be closed.

        Another upstream is called only if the body can be sent again, and what may have been sent already only with a
        method that allows that (RFC 9110 §9.2.2).
        """
        failure = failure_of(result)
        if forwarded or failure not in self._on:
            return False
        if self.upstream is not None and not (replayable and (failure in UNSENT or method in IDEMPOTENT)):
            return False
        self._taken.labels(self._route, str(failure)).inc()
        return True

    def reply(self) -> Response:
        """The fixed reply."""
        return Response(self._status, self._headers.copy(), self._body)
