"""Client connection: one client's bytes in and out; where requests begin and their deadlines are kept."""

from __future__ import annotations

import struct
from asyncio import Future, Protocol, Transport
from http import HTTPStatus
from socket import SO_LINGER, SOL_SOCKET
from typing import TYPE_CHECKING, Any, Final

from gateway.exchange import Exchange, Request
from gateway.http1.request_reader import RequestReader
from gateway.problem import Problem, RequestTimeout

if TYPE_CHECKING:
    from gateway.listener import Listener
    from gateway.serving import Serving

RATE_SECONDS: Final = 10.0
"""Over how long the rate of a request's body is measured."""
LINGER_SECONDS: Final = 2.0
"""How long a connection that is closing is read on."""
_RESET: Final = struct.pack("ii", 1, 0)
_INTERIM_REASONS: Final = {100: "Continue", 102: "Processing", 103: "Early Hints"}


class ClientGone(Exception):
    """The client closed its connection before its request was complete."""


class Unread(Exception):
    """Nobody waits for the rest of the request's body any more: who still sends it on must stop."""


class ClientConnection(Protocol):
    """One client's connection: requests come in one after another, each answered before the next is read.

    It is the Client of `delivery` and the Source of its requests' bodies. `deadline` is when the present phase must
    have ended, in seconds of the loop's clock; the listener looks.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._options = listener.options
        self._loop = listener.loop
        self._reader = RequestReader(self, self._options.max_head)
        self._transport: Transport | None = None
        self._serving: Serving | None = None
        self._exchange: Exchange | None = None
        self._drained: Future[None] | None = None
        self._blocked_since = 0.0
        self._lingering = False
        self._held = False  # we do not read because the body's reader is slow
        self._invited = True  # the client need not wait for 100 (Continue)
        self._body_mark = 0
        self._body_marked_at = 0.0
        self.peer = ""
        self.deadline = 0.0
        self.gone = False
        self.keep_alive = True
        self.blocked = False

    # What the transport calls

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else ""
        self.peer = self.peer.removeprefix("::ffff:")
        if self._listener.admits(self):
            self.deadline = self._loop.time() + self._options.head_timeout
        else:
            self.gone = True
            transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.gone = True
        self._transport = None
        self._listener.forget(self)
        if self._exchange is not None:
            self._exchange.request.body.fail(ClientGone("the client closed the connection"))
            if self._serving is not None and (self._exchange.on_disconnect == "cancel" or not self._reader.complete):
                self._serving.cancel()
        self.resume_writing()  # last: who is cancelled must not first hear that the client takes more

    def eof_received(self) -> bool:
        return False

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            return
        try:
            request = self._reader.feed(data)
        except Problem as problem:
            self._refuse(problem)
            return
        if request is not None:
            self._begin(request)
        elif self._reader.pending > self._options.max_head and self._transport is not None and not self._reader.waiting:
            self._transport.pause_reading()  # it pipelines faster than it can be answered

    def pause_writing(self) -> None:
        self.blocked = True
        self._blocked_since = self._loop.time()

    def resume_writing(self) -> None:
        self.blocked = False
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # The Client of delivery

    def write(self, data: bytes) -> None:
        """Hand bytes to the socket, or to nobody if the client is gone."""
        if self._transport is not None:
            self._transport.write(data)
            if self.blocked:
                self._blocked_since = self._loop.time()

    async def drain(self) -> None:
        """Wait until the client has taken enough of what was written."""
        if self.blocked and not self.gone:
            self._drained = self._loop.create_future()
            await self._drained

    def cut(self) -> None:
        """Break off in a way the client must notice: with a reset, so that no half response looks whole."""
        self.keep_alive = False
        if self._transport is not None:
            connection = self._transport.get_extra_info("socket")
            connection.setsockopt(SOL_SOCKET, SO_LINGER, _RESET)
            self._transport.abort()

    def done(self) -> None:
        """The exchange is over: go on with the next one, or close."""
        reader, transport = self._reader, self._transport
        if not reader.complete and self._exchange is not None:
            self._exchange.request.body.fail(Unread("the request was answered before its body was complete"))
        self._serving = self._exchange = None
        if transport is None or transport.is_closing():
            return
        if not self.keep_alive or not reader.reusable or not reader.complete or self._listener.draining:
            self._close(transport)
            return
        if reader.pending:
            # In a turn of its own: answers that need no waiting would pile up on the stack.
            self._loop.call_soon(self._resume, transport)
        else:
            reader.waiting = True
            self.deadline = self._loop.time() + self._options.idle_timeout

    # The Source of a request's body

    def invite_body(self) -> None:
        """Tell a client that waits for it to send its body (RFC 9110 §10.1.1)."""
        if not self._invited:
            self._invited = True
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def pause_body(self) -> None:
        self._held = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_body(self) -> None:
        self._held = False
        self._mark_body()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def abandon_body(self) -> None:
        """The rest of the request's body is of no interest: it is not read, and the connection ends with the answer."""
        self.keep_alive = False

    # Requests

    def _begin(self, request: Request) -> None:
        listener = self._listener
        request.peer = request.client = self.peer
        if listener.forwarding.trusts_some:
            request.client = listener.forwarding.client_of(self.peer, request.headers)
        self.keep_alive = request.keep_alive
        if not request.http10:
            request.inform = self._inform
        self._invited = not request.expects_continue
        if not self._reader.complete:
            self._mark_body()
        exchange = self._exchange = Exchange(request, listener.clock)
        serving = listener.begin(exchange, self)
        if self._exchange is exchange:  # else it is over already
            self._serving = serving

    def _resume(self, transport: Transport) -> None:
        if self.gone or transport.is_closing():
            return
        if not transport.is_reading():
            transport.resume_reading()
        self.deadline = self._loop.time() + self._options.head_timeout
        try:
            request = self._reader.resume()
        except Problem as problem:
            self._refuse(problem)
            return
        if request is not None:
            self._begin(request)

    def _inform(self, status: int, fields: list[tuple[str, str]]) -> None:
        if self.gone:
            return
        if status == 100:
            if self._invited:
                return
            self._invited = True
        lines = "".join([f"{name}: {value}\r\n" for name, value in fields])
        self.write(f"HTTP/1.1 {status} {_INTERIM_REASONS.get(status, '')}\r\n{lines}\r\n".encode("latin-1"))

    def _refuse(self, problem: Problem) -> None:
        """Answer what is no request; nothing that follows on this connection can be trusted."""
        self._listener.count_refusal(problem)
        document = problem.document()
        lines = "".join([f"{name}: {value}\r\n" for name, value in problem.fields().items()])
        reason = HTTPStatus(problem.status).phrase
        framing = f"Content-Length: {len(document)}\r\nConnection: close\r\n"
        head = f"HTTP/1.1 {problem.status} {reason}\r\n{lines}{framing}\r\n"
        self.write(head.encode("latin-1") + document)
        if self._transport is not None:
            self._linger(self._transport)

    # Endings and deadlines

    def close_if_idle(self) -> None:
        """Close now if no request is under way; the process is about to stop."""
        if self._exchange is None and self._transport is not None:
            self._transport.close()

    def cancel(self) -> None:
        """Stop at once: the deadline for draining has passed."""
        if self._serving is not None:
            self._serving.cancel()
        if self._transport is not None:
            self._transport.abort()

    def check(self, now: float) -> None:
        """End the connection if its present phase lasted too long."""
        if self.blocked:
            if now - self._blocked_since > self._options.send_timeout:
                self.cut()
        elif self._exchange is None:
            if now > self.deadline:
                self._expire()
        elif not self._reader.complete and not self._held and now - self._body_marked_at >= RATE_SECONDS:
            self._check_body_rate(now)

    def _expire(self) -> None:
        if self._transport is None:
            return
        if self._lingering or not self._reader.pending:
            self._transport.abort() if self._lingering else self._transport.close()
        else:
            self._refuse(RequestTimeout())

    def _check_body_rate(self, now: float) -> None:
        exchange = self._exchange
        if exchange is None or (not self._invited and not exchange.bytes_in):
            return  # it waits to be invited, as it may
        if exchange.bytes_in - self._body_mark < self._options.minimum_body_rate * (now - self._body_marked_at):
            exchange.request.body.fail(RequestTimeout("The request's body arrived too slowly."))
        self._mark_body()

    def _mark_body(self) -> None:
        self._body_mark = self._exchange.bytes_in if self._exchange is not None else 0
        self._body_marked_at = self._loop.time()

    def _close(self, transport: Transport) -> None:
        if self._reader.complete and not self._reader.pending:
            transport.close()
        else:
            self._linger(transport)

    def _linger(self, transport: Transport) -> None:
        """Close for writing, and read on for a moment: a reset for unread bytes could destroy the answer on its way."""
        self._lingering = True
        self.deadline = self._loop.time() + LINGER_SECONDS
        if transport.can_write_eof():
            transport.write_eof()
        if not transport.is_reading():
            transport.resume_reading()
