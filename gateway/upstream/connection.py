"""Connection: one keep-alive connection to a target; sends a request, hands over its response, minds its deadlines.

It is offered for reuse only if request and response both ended whole, both sides want to go on, and not a byte is
left over.
"""

from __future__ import annotations

from asyncio import Future, Protocol, Task, Transport, get_running_loop
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gateway.body import Body
from gateway.drive import Answer
from gateway.exchange import Request, Response
from gateway.forwarding import passing_trailers
from gateway.http1.grammar import Malformed, chunk, last_chunk
from gateway.http1.response_reader import ResponseReader

if TYPE_CHECKING:
    from gateway.background import Background
    from gateway.upstream.target import Target


class Lost(Exception):
    """The connection ended before the response did. `unanswered`: not one byte of a response had arrived."""

    def __init__(self, reason: str, *, unanswered: bool = False) -> None:
        super().__init__(reason)
        self.unanswered = unanswered


class TimedOut(Exception):
    """The target was silent, or the whole call took, longer than the upstream's timeouts allow."""


class Connection(Protocol):
    """A connection to `target`; between calls it is idle. Also the Source of its responses' bodies.

    `on_idle` is told when a call ended cleanly, `on_closed` once when the connection is gone.
    """

    def __init__(
        self,
        target: Target,
        *,
        max_head: int,
        background: Background,
        on_idle: Callable[[Connection], None],
        on_closed: Callable[[Connection], None],
    ) -> None:
        self.target = target
        self.idle_since = 0.0
        self._loop = get_running_loop()
        self._background = background
        self._on_idle = on_idle
        self._on_closed = on_closed
        self._reader = ResponseReader(self, max_head)
        self._transport: Transport | None = None
        self._request: Request | None = None
        self._answer: Answer[Response] | None = None
        self._pump: Task[None] | None = None
        self._drained: Future[None] | None = None
        self._held = False  # the reader of the response's body is slower than the target
        self._deadline = self._total_deadline = 0.0
        self._first_byte = self._idle = 0.0

    @property
    def usable(self) -> bool:
        """Whether a call may begin."""
        return self._request is None and self._transport is not None and not self._transport.is_closing()

    def call(
        self, request: Request, head: bytes, *, first_byte: float, idle: float, deadline: float
    ) -> Answer[Response]:
        """Send a request; the future brings the head of its response, whose body goes on arriving by itself.

        `first_byte` and `idle` are seconds, `deadline` a time of the loop's clock for the whole call. The future
        raises Lost, TimedOut, Malformed, or what the request's body failed with; then the connection is closed.
        Whoever stops waiting for it calls `give_up`. Raises Lost at once if there is no connection any more.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            raise Lost("the target closed the connection", unanswered=True)
        self._request = request
        self._first_byte, self._idle, self._total_deadline = first_byte, idle, deadline
        self._reader.begin(request)
        body = request.body
        if body.length == 0:
            self._deadline = self._loop.time() + first_byte
            transport.write(head)
        else:
            try:
                self._start_body(transport, head, body)
            except BaseException:  # the body failed before a byte was sent: the connection is as good as before
                self._request = None
                self._on_idle(self)
                raise
        answer = self._answer = Answer(loop=self._loop)
        return answer

    def give_up(self, answer: Answer[Response]) -> None:
        """Nobody waits for this answer any more; what of it arrives, or arrived unseen, is of no use."""
        if self._answer is answer:
            self._answer = None
            self.abort()
        elif answer.done() and not answer.cancelled() and answer.exception() is None:
            answer.result().close()  # not abort: the connection may be in another call's hands by now

    def abort(self) -> None:
        """Close at once, whatever is on its way."""
        if self._transport is not None:
            self._transport.abort()

    def expire(self, now: float) -> None:
        """Fail the call whose time is over; waiting for a slow client to take the body is not the target's silence."""
        if self._request is None:
            return
        if now >= self._total_deadline:
            self._fail(TimedOut("the call took too long"))
        elif now >= self._deadline and not self._held:
            self._fail(TimedOut("the target was silent for too long"))

    # Sending a body

    def _start_body(self, transport: Transport, head: bytes, body: Body) -> None:
        piece = body.take()
        transport.write(head if piece is None else head + _framed(body, *piece))
        if piece is not None and piece[1]:
            self._deadline = self._loop.time() + self._first_byte
            return
        self._deadline = self._loop.time() + self._idle
        self._pump = self._background.start(self._send_body(transport, body), "request body")

    async def _send_body(self, transport: Transport, body: Body) -> None:
        try:
            last = False
            while not last:
                if self._drained is not None:
                    await self._drained
                data, last = await body.next()
                if transport.is_closing():
                    return
                transport.write(_framed(body, data, last))
                self._deadline = self._loop.time() + self._idle
        except Exception as error:  # noqa: BLE001 - whatever stopped the client's body stops the call
            self._fail(error)
            return
        finally:
            self._pump = None
        if self._reader.complete:
            self._settle()
        elif self._reader.response is None:
            self._deadline = self._loop.time() + self._first_byte

    # What the transport calls

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def pause_writing(self) -> None:
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._request is None or self._reader.complete:
            self.abort()  # bytes that nobody asked for must never answer anybody
            return
        reader = self._reader
        try:
            reader.feed(data)
        except Malformed as malformed:
            self._fail(malformed)
            return
        if not reader.complete:
            self._deadline = self._loop.time() + self._idle
        if reader.interim:
            self._relay_interim(self._request, reader)
        answer = None
        if reader.response is not None:
            answer, self._answer = self._answer, None
        if reader.complete:
            self._settle()  # before the answer goes on: whoever gets it may call again at once
        if answer is not None and reader.response is not None:
            answer.bring(reader.response)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self.resume_writing()
        if self._request is not None:
            if error is None and self._reader.eof():
                self._end_call()
            else:
                unanswered = not self._reader.started
                self._fail(Lost("the target closed the connection", unanswered=unanswered))
        self._on_closed(self)

    # The Source of a response's body

    def pause_body(self) -> None:
        self._held = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_body(self) -> None:
        self._held = False
        self._deadline = self._loop.time() + self._idle
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def abandon_body(self) -> None:
        self.abort()

    def invite_body(self) -> None:
        """A target sends its body uninvited."""

    # The end of a call

    @staticmethod
    def _relay_interim(request: Request, reader: ResponseReader) -> None:
        interim, reader.interim = reader.interim, []
        if request.inform is not None:
            for status, fields in interim:
                request.inform(status, fields)

    def _settle(self) -> None:
        """The response is whole: be idle again if the request is too, else close."""
        if self._pump is not None:
            return  # the rest of the request is still welcome; `_send_body` settles
        transport = self._transport
        self._end_call()
        if transport is None:
            return
        if self._held:
            self._held = False
            transport.resume_reading()
        if self._reader.reusable and not transport.is_closing():
            self.idle_since = self._loop.time()
            self._on_idle(self)
        else:
            transport.close()

    def _fail(self, error: Exception) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            self._end_call()
            self.abort()
            answer.refuse(error)
            return
        if self._reader.response is not None and isinstance(self._reader.response.body, Body):
            self._reader.response.body.fail(error)
        self._end_call()
        self.abort()

    def _end_call(self) -> None:
        self._request = None
        if self._pump is not None:
            self._pump.cancel()
            self._pump = None


def _framed(body: Body, data: bytes, last: bool) -> bytes:
    if body.length is not None:
        return data
    framed = chunk(data) if data else b""
    return framed + last_chunk(passing_trailers(body.trailers)) if last else framed
