"""Connection: one keep-alive connection to a target; sends a request, hands over its response, minds its deadlines.

It is offered for reuse only if request and response both ended whole, both sides want to go on, and no byte is left.
"""

from __future__ import annotations

from asyncio import Future, Protocol, Task, Transport, get_running_loop
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

from gateway.body import Body
from gateway.exchange import Response
from gateway.forwarding import passing_trailers
from gateway.headers import Headers
from gateway.http1.grammar import chunk, last_chunk
from gateway.http1.response_head import Malformed
from gateway.http1.response_reader import ResponseReader
from gateway.upstream.tunnel import Tunnel

if TYPE_CHECKING:
    from gateway.background import Background
    from gateway.upstream.call import Call
    from gateway.upstream.replay import ReplayableBody
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

    `first_byte` and `idle` are seconds of silence that end a call; with `exempt_streams` its deadline does not hold for
    streams of events. `on_idle` is told when a call ended cleanly, `on_closed` once when the connection is gone.
    `fresh` says that no call has ended on it yet, and `took` how many seconds the last one did.
    """

    def __init__(
        self,
        target: Target,
        *,
        max_head: int,
        first_byte: float,
        idle: float,
        exempt_streams: bool,
        background: Background,
        on_idle: Callable[[Connection], None],
        on_closed: Callable[[Connection], None],
    ) -> None:
        self.target = target
        self.idle_since = self._sent_at = self._deadline = 0.0
        self.fresh = True
        self.took: float | None = None
        self._time = get_running_loop().time
        self._first_byte, self._idle = first_byte, idle
        self._exempt_streams = exempt_streams
        self._background = background
        self._on_idle = on_idle
        self._on_closed = on_closed
        self._reader = ResponseReader(self, max_head)
        self._transport: Transport | None = None
        self._closing = False
        self._call: Call | None = None
        self._response: Response | None = None
        self._pump: Task[None] | None = None
        self._drained: Future[None] | None = None
        self._held = False  # the reader of the response's body is slower than the target

    @property
    def usable(self) -> bool:
        """Whether a call may begin."""
        return self._call is None and not self._closing

    def send(self, call: Call, head: bytes, now: float) -> None:
        """Send a call's request, beginning at `now`; the call hears of the response when its head is there.

        The response's body goes on arriving by itself. If anything goes wrong before, the call hears of Lost,
        TimedOut, Malformed or what the request's body failed with, and this connection is closed.
        """
        self._call, self._sent_at = call, now
        self._response = None
        self._reader.begin(call.request.method)
        transport = self._transport
        if transport is None:
            self._fail(Lost("the target closed the connection", unanswered=True))
        elif call.body.length == 0:
            self._deadline = now + self._first_byte
            transport.write(head)
        else:
            self._start_body(transport, call, head, now)

    def give_up(self, call: Call) -> None:
        """Nobody waits for the answer of this call any more."""
        if self._call is call:
            self._end_call()
            self.abort()

    def abort(self) -> None:
        """Close at once, whatever is on its way."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    def expire(self, now: float) -> None:
        """Fail the call whose time is over, or whose body failed while the target took none of it.

        Waiting for a slow client to take the response is not the target's silence.
        """
        call = self._call
        if call is None:
            return
        if now >= call.deadline:
            self._fail(TimedOut("the call took too long"))
        elif now >= self._deadline and not self._held:
            self._fail(TimedOut("the target was silent for too long"))
        elif self._pump is not None and call.body.error is not None:
            self._fail(call.body.error)

    # Sending a body

    def _start_body(self, transport: Transport, call: Call, head: bytes, now: float) -> None:
        body = call.body
        if body.error is not None:  # before a byte was sent: the connection is as good as before
            self._call = None
            self.idle_since = now
            self._on_idle(self)
            call.failed(body.error)
            return
        piece = body.take()
        transport.write(head if piece is None else head + _framed(body, *piece))
        if piece is not None and piece[1]:
            self._deadline = now + self._first_byte
            return
        self._deadline = now + self._idle
        self._pump = self._background.start(self._send_body(transport, body), "request body")

    async def _send_body(self, transport: Transport, body: Body | ReplayableBody) -> None:
        try:
            last = False
            while not last:
                if self._drained is not None:
                    await self._drained
                data, last = await body.next()
                if transport.is_closing():
                    return
                transport.write(_framed(body, data, last))
                self._deadline = self._time() + self._idle
        except Exception as error:  # noqa: BLE001 - whatever stopped the client's body stops the call
            self._fail(error)
            return
        finally:
            self._pump = None
        if self._reader.complete:
            self._settle()
        elif self._response is None:
            self._deadline = self._time() + self._first_byte

    # What the transport calls

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def pause_writing(self) -> None:
        self._drained = get_running_loop().create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def data_received(self, data: bytes) -> None:
        call, reader = self._call, self._reader
        if call is None or reader.complete:
            self.abort()  # bytes that nobody asked for must never answer anybody
            return
        try:
            response = reader.feed(data)
            if reader.interim:
                self._relay_interim(call, reader)
        except Malformed as malformed:
            self._fail(malformed)
            return
        if response is not None:
            self._response = response
        if reader.complete:
            self._settle()  # before the answer goes on: whoever gets it may call again at once
        elif self._response is not None:  # a head in pieces is still due in the time for the first byte
            self._deadline = self._time() + self._idle
        if response is not None:
            call.caller.answered(response)
            if self._exempt_streams and response.streams:
                call.deadline = inf

    def eof_received(self) -> bool:
        self._closing = True
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._closing = True
        self.resume_writing()
        if self._call is not None:
            if error is None and self._reader.eof():
                self._end_call()
            else:
                why = f": {error}" if isinstance(error, ConnectionError) and str(error) else ""
                self._fail(Lost(f"the target closed the connection{why}", unanswered=not self._reader.started))
        self._on_closed(self)

    # The Source of a response's body

    def pause_body(self) -> None:
        self._held = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_body(self) -> None:
        self._held = False
        self._deadline = self._time() + self._idle
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def abandon_body(self) -> None:
        self.abort()

    def invite_body(self) -> None:
        """A target sends its body uninvited."""

    # The end of a call

    def _relay_interim(self, call: Call, reader: ResponseReader) -> None:
        interim, reader.interim = reader.interim, []
        for status, fields in interim:
            if status == 101:
                self._switch(call, Headers(fields), reader.rest)
            elif call.request.inform is not None:
                call.request.inform(status, fields)

    def _switch(self, call: Call, headers: Headers, rest: bytes) -> None:
        """The connection is a tunnel's from now on. Raises Malformed if the target was not asked, or answers wrong."""
        handshake, transport = call.request.handshake, self._transport
        if handshake is None or transport is None:
            raise Malformed("it switched protocols unasked")
        compressed = handshake.check(headers)
        self._call = None
        tunnel = Tunnel(handshake.options, compressed=compressed, rest=rest, lost=self.connection_lost)
        tunnel.upstream.take_over(transport)
        transport.pause_reading()  # until the client has heard of it
        response = Response(101, headers, tunnel)
        response.proxied = True
        call.caller.answered(response)

    def _settle(self) -> None:
        """The response is whole: be idle again if the request is too, else close."""
        if self._pump is not None:
            return  # the rest of the request is still welcome; `_send_body` settles
        self._call, self.fresh = None, False
        if (transport := self._transport) is None:
            return
        if self._reader.reusable and not self._closing:
            self.idle_since = now = self._time()
            self.took = now - self._sent_at
            self._on_idle(self)
        else:
            self._closing = True
            transport.close()

    def _fail(self, error: Exception) -> None:
        call, response = self._call, self._response
        self._end_call()
        self.abort()
        if response is None:
            if call is not None:
                call.failed(error)
        elif isinstance(response.body, Body):
            response.body.fail(error)

    def _end_call(self) -> None:
        self._call = None
        if self._pump is not None:
            self._pump.cancel()
            self._pump = None


def _framed(body: Body | ReplayableBody, data: bytes, last: bool) -> bytes:
    if body.length is not None:
        return data
    framed = chunk(data) if data else b""
    return framed + last_chunk(passing_trailers(body.trailers)) if last else framed
