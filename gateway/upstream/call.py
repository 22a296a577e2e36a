"""Call: one request's way to a response, over as many attempts as that takes.

Whoever wants the response is called back in the stack that brought it: a task and two turns of the event loop for
every request would cost as much as everything else a proxy does to it. `response_of` is for those who rather await.
"""

from __future__ import annotations

from asyncio import CancelledError, Future, Task, get_running_loop
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from gateway.exchange import Request, Response

if TYPE_CHECKING:
    from gateway.body import Body
    from gateway.upstream.connection import Connection
    from gateway.upstream.replay import ReplayableBody
    from gateway.upstream.target import Target
    from gateway.upstream.upstream import Upstream


class Caller(Protocol):
    """Who wants a response. Exactly one of these is called, once, unless the call is cancelled before."""

    def answered(self, response: Response) -> None:
        """The head is there; the body may still be arriving."""

    def failed(self, error: Exception) -> None:
        """There is no response: BadGateway, GatewayTimeout, Overloaded, or what the request's own body failed with."""


class Underway(Protocol):
    """A call on its way, to be cancelled only before there is a response."""

    def cancel(self) -> None:
        """Nobody waits for the response any more."""


class Call:
    """A request on its way to `upstream`. `deadline` is when it must have ended, in seconds of the loop's clock.

    `connection` is where it was sent, `opening` the task that looks for one. `body` is the request's, or one in its
    place that can be sent again.
    """

    __slots__ = ("body", "caller", "connection", "deadline", "opening", "request", "target", "upstream")

    def __init__(
        self,
        upstream: Upstream,
        request: Request,
        caller: Caller,
        target: Target,
        deadline: float,
        body: Body | ReplayableBody,
    ) -> None:
        self.body = body
        self.upstream = upstream
        self.request = request
        self.caller = caller
        self.target = target
        self.deadline = deadline
        self.connection: Connection | None = None
        self.opening: Task[None] | None = None

    def failed(self, error: Exception) -> None:
        """An attempt failed."""
        self.upstream.failed(self, error)

    def cancel(self) -> None:
        """Nobody waits for the response any more. To be called only before there is one."""
        if self.opening is not None:
            self.opening.cancel()
        elif self.connection is not None:
            self.connection.give_up(self)


class _Waiter:
    def __init__(self) -> None:
        self.future: Future[Response] = get_running_loop().create_future()

    def answered(self, response: Response) -> None:
        if self.future.done():
            response.close()
        else:
            self.future.set_result(response)

    def failed(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


async def response_of(begin: Callable[[Caller], Any]) -> Response:
    """Await the response of the call that `begin` begins (and returns). Raises what the Caller hears it failed with."""
    waiter = _Waiter()
    call: Underway | None = begin(waiter)
    try:
        return await waiter.future
    except CancelledError:
        if waiter.future.cancelled():
            if call is not None:
                call.cancel()
        elif waiter.future.exception() is None:
            waiter.future.result().close()  # it came in the moment in which nobody wanted it any more
        raise
