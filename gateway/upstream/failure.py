"""Failure: one word for each way in which a call can fail; options, decisions and metrics share these words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from gateway.exchange import Response
from gateway.http1.response_head import Malformed
from gateway.problem import CircuitOpen, Overloaded, Problem
from gateway.upstream.connection import Lost, TimedOut

Reason: TypeAlias = Literal["refused", "connect", "timeout", "lost", "malformed"]
"""Why there is no response.

`refused`: the gateway did not try, for want of room or because a circuit is open. `connect`: no connection came about,
in time or at all. `timeout`: the target was silent for too long, or the call took too long. `lost`: the connection
ended before the response did. `malformed`: what came was no valid HTTP.
"""

UNSENT: Final = frozenset({"refused", "connect"})
"""Failures after which no target has seen anything of the request, whatever its method."""

_WORDS: Final = ("connect", "timeout", "lost", "malformed", "5xx")


def failure_of(result: Exception | Response) -> Reason | int | None:
    """What an attempt or a whole call ended with: the status of the response, else the reason why there is none.

    None if the upstream had no part in it, as when the request's own body broke off.
    """
    match result:
        case Response():
            return result.status
        case Lost():
            return "lost"
        case Malformed():
            return "malformed"
        case TimedOut():
            return "timeout"
        case OSError():  # TimeoutError among them: opening a connection took too long
            return "connect"
        case Overloaded() | CircuitOpen():
            return "refused"
        case Problem(__cause__=Exception() as cause):
            return failure_of(cause)
    return None


def spelled_out(failures: Iterable[str | int]) -> frozenset[str | int]:
    """Failures as an option lists them, made ready to be looked up: `5xx` becomes the statuses it stands for."""
    listed = frozenset(failures)
    return listed.union(range(500, 600)) - {"5xx"} if "5xx" in listed else listed


def _word_or_status(value: Any) -> Any:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if (whole and 500 <= value <= 599) or (isinstance(value, str) and value in _WORDS):
        return value
    raise ValueError(f"not a failure: {value!r} (write {', '.join(_WORDS)} or a status such as 503)")


Failure = Annotated[
    Literal["connect", "timeout", "lost", "malformed", "5xx"] | Annotated[int, Field(ge=500, le=599)],
    BeforeValidator(_word_or_status),
]
"""A failure of the upstream as an option lists it: a reason, a status, or `5xx` for all statuses from 500 to 599."""
