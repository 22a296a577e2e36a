"""Destination: where a route's requests go if that is more than one upstream: shared out, mirrored, elsewhere in need.

The body of a request is kept while it may be needed once more, and one customer request stays one exchange whatever
becomes of it in here.
"""

from __future__ import annotations

from asyncio import get_running_loop
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from gateway.body import Body
from gateway.exchange import Exchange, Request, Response
from gateway.problem import Overloaded
from gateway.upstream.attempts import Attempts
from gateway.upstream.replay import ReplayableBody

if TYPE_CHECKING:
    from gateway.upstream.bulkhead import Bulkhead
    from gateway.upstream.call import Caller, Underway
    from gateway.upstream.fallback import Fallback
    from gateway.upstream.mirror import Mirror
    from gateway.upstream.replay import ReplayMemory
    from gateway.upstream.upstream import Upstream


class Destination:
    """`upstreams` are those that answer, by name, the one of the fallback included; `pick` names the one to call first.

    Bodies of up to `replay_buffer` bytes are kept for the fallback and the mirror.
    """

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        pick: Callable[[Request], str],
        *,
        fallback: Fallback | None,
        mirror: Mirror | None,
        bulkhead: Bulkhead | None,
        memory: ReplayMemory,
        replay_buffer: int,
    ) -> None:
        self.upstreams = upstreams
        self.pick = pick
        self.fallback = fallback
        self.mirror = mirror
        self.bulkhead = bulkhead
        self.time = get_running_loop().time
        self._memory = memory
        self._replay_buffer = replay_buffer

    def call(self, exchange: Exchange, caller: Caller) -> Underway | None:
        """Get an exchange its answer. None if the caller has heard of it already."""
        dispatch = Dispatch(self, exchange, caller)
        dispatch.begin()
        return None if dispatch.over else dispatch

    def kept(self, body: Body) -> ReplayableBody:
        """A request's body in a form that can be sent again."""
        return ReplayableBody(body, self._replay_buffer, self._memory)


class Dispatch:
    """One exchange's way to its answer, perhaps over two upstreams.

    It is the Caller of both, is cancelled like a Call, and waits in the route's bulkhead like any Waiter.
    """

    __slots__ = ("_attempts", "_caller", "_destination", "_exchange", "_kept", "_mirrored", "_placed", "over")

    def __init__(self, destination: Destination, exchange: Exchange, caller: Caller) -> None:
        self._destination = destination
        self._exchange = exchange
        self._caller = caller
        self._attempts: Attempts | None = None
        self._kept: ReplayableBody | None = None
        self._mirrored = False
        self._placed = False
        self.over = False

    def begin(self) -> None:
        """Call the upstream, or wait for a place."""
        bulkhead = self._destination.bulkhead
        if bulkhead is None:
            self._start()
            return
        try:
            self._placed = bulkhead.enter(self, self._destination.time())
        except Overloaded as refusal:
            self._end(refusal)
            return
        if self._placed:
            self._start()

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        bulkhead = self._destination.bulkhead
        if self._attempts is not None:
            self._attempts.cancel()
        if bulkhead is not None and not bulkhead.give_up(self) and self._placed:
            bulkhead.leave()
        if self._kept is not None:
            self._kept.release()

    # The Waiter of the bulkhead

    def admitted(self) -> None:
        """There is a place now."""
        self._placed = True
        self._start()

    def refused(self, problem: Overloaded) -> None:
        """It waited too long."""
        self._end(problem)

    # The Caller of the upstreams

    def answered(self, response: Response) -> None:
        self._called(response)

    def failed(self, error: Exception) -> None:
        self._called(error)

    def _start(self) -> None:
        destination, exchange = self._destination, self._exchange
        fallback, mirror, body = destination.fallback, destination.mirror, exchange.request.body
        may_be_mirrored = exchange.request.handshake is None  # a WebSocket is one conversation
        self._mirrored = mirror is not None and may_be_mirrored and mirror.chooses()
        if body.length != 0 and (self._mirrored or (fallback is not None and fallback.upstream is not None)):
            self._kept = destination.kept(body)
        exchange.upstream_sent_at = exchange.clock.monotonic()
        self._call(destination.pick(exchange.request))

    def _call(self, name: str) -> None:
        exchange, upstream = self._exchange, self._destination.upstreams[name]
        exchange.upstream = name
        self._attempts = Attempts(upstream, exchange.request, self._kept or exchange.request.body, self)
        self._attempts.begin(upstream.time())

    def _called(self, result: Response | Exception) -> None:
        """An upstream has begun to answer, or failed."""
        fallback, kept, exchange = self._destination.fallback, self._kept, self._exchange
        if (
            fallback is None
            or exchange.upstream == fallback.upstream
            or not fallback.takes(
                result,
                method=exchange.request.method,
                replayable=kept is None or kept.rewindable_after(result),
            )
        ):
            self._end(result)
            return
        if isinstance(result, Response):
            result.close()
        if fallback.upstream is None:
            self._end(fallback.reply())
            return
        if kept is not None:
            kept.rewind()
        self._call(fallback.upstream)

    def _end(self, result: Response | Exception) -> None:
        self.over = True
        self._attempts = None  # it knows us
        kept, bulkhead, mirror = self._kept, self._destination.bulkhead, self._destination.mirror
        if mirror is not None and self._mirrored:
            mirror.send(self._exchange.request, b"" if kept is None else kept.whole)
        if kept is not None:
            kept.release()
        if bulkhead is not None and self._placed:
            if isinstance(result, Response) and isinstance(result.body, Body):
                result.body.when_over(bulkhead.leave)
            else:
                bulkhead.leave()
        if isinstance(result, Response):
            self._caller.answered(result)
        else:
            self._caller.failed(result)
