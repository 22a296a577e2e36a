"""Client connection: one client's bytes in and out; where requests begin and their deadlines are kept."""

from __future__ import annotations

import struct
from asyncio import Protocol, Transport
from collections.abc import Callable
from math import inf
from socket import SO_LINGER, SOL_SOCKET
from typing import TYPE_CHECKING, Any, Final

from gateway.body import BodyUnwanted, ClientGone
from gateway.downstream.upload import Upload
from gateway.exchange import Exchange, Request
from gateway.forwarding import client_head, interim_head
from gateway.http1.request_reader import RequestReader
from gateway.pace import Outflow
from gateway.problem import Problem, RequestTimeout

if TYPE_CHECKING:
    from gateway.downstream.listener import Listener
    from gateway.downstream.serving import Serving
    from gateway.upstream.tunnel import Tunnel

LINGER_SECONDS: Final = 2.0
"""How long a connection that is closing is read on after its client has taken all."""
_RESET: Final = struct.pack("ii", 1, 0)


class ClientConnection(Protocol):
    """One client's connection: requests come in one after another, each answered before the next is read.

    It is the Client of `delivery`. The listener lets it look at its deadlines.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._options = listener.options
        self._loop = listener.loop
        self._upload = Upload(self, self._options.minimum_body_rate)
        self._reader = RequestReader(self._upload, self._options.max_head)
        self._transport: Transport | None = None
        self.serving: Serving | None = None
        self._exchange: Exchange | None = None
        self._drained: Callable[[], None] | None = None
        self._outflow: Outflow | None = None  # since it is watched whether the client takes anything
        self._ending = False  # no request follows: what is unsent still goes out
        self._lingering = False
        self._tunnel: Tunnel | None = None
        self._deadline = 0.0  # of the head that is arriving
        self._idle_until = 0.0  # 0 where a head is arriving
        self.peer = ""
        self.gone = False
        self.keep_alive = True
        self.blocked = False

    # What the transport calls

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self.peer = peer[0].removeprefix("::ffff:") if isinstance(peer, tuple) else ""
        if self._listener.admits(self):
            self._await_head()
        else:
            self.gone = True
            transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.gone = True
        self._transport = None
        if self._exchange is None:
            self._listener.forget(self)
        else:
            self._exchange.request.body.fail(ClientGone())
            if self.serving is not None and (self._exchange.on_disconnect == "cancel" or not self._reader.complete):
                self.serving.cancel()
        self.resume_writing()  # last: who is cancelled must not first hear that the client takes more

    def eof_received(self) -> bool:
        self._ending = True
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
        elif self._reader.waiting:
            if self._idle_until:
                self._await_head()
        elif self._reader.pending > self._options.max_head and self._transport is not None:
            self._transport.pause_reading()  # it pipelines faster than it can be answered

    def pause_writing(self) -> None:
        self.blocked = True

    def resume_writing(self) -> None:
        self.blocked = False
        self._outflow = None
        drained, self._drained = self._drained, None
        if drained is not None:
            drained()
        self._resume()

    # The Client of delivery

    def write(self, data: bytes) -> None:
        """Hand bytes to the socket, or to nobody if the client is gone."""
        if self._transport is not None:
            self._transport.write(data)
            if self._outflow is not None:
                self._outflow.unsent += len(data)

    def when_drained(self, go_on: Callable[[], None]) -> None:
        """Call back when the client, blocked at the moment, has taken enough of what was written, or is gone."""
        self._drained = go_on

    def cut(self) -> None:
        """Break off in a way the client must notice: with a reset, so that no half response looks whole."""
        self.keep_alive = False
        if self._transport is not None:
            self._transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, _RESET)
            self._transport.abort()

    def hand_over(self, tunnel: Tunnel) -> bytes:
        """The connection is the tunnel's from now on. What has arrived behind the request already."""
        transport, self._transport, self._tunnel = self._transport, None, tunnel
        if transport is not None:
            tunnel.client.take_over(transport)
        if self.blocked:
            tunnel.client.pause_writing()
        if self._listener.stopping:
            _ = self.leave("the gateway stops")
        return self._reader.take_rest()

    def done(self) -> None:
        """The exchange is over: go on with the next one, or close."""
        reader, transport = self._reader, self._transport
        if not reader.complete and self._exchange is not None:
            self.keep_alive = False
            self._exchange.request.body.fail(BodyUnwanted())
        self.serving = self._exchange = None
        if transport is None:
            self._listener.forget(self)
        if transport is None or transport.is_closing():
            return
        if not self.keep_alive or not reader.reusable or self._listener.draining:
            self._linger(transport) if reader.pending or not reader.complete else self._end(transport)
            return
        if reader.pending or self.blocked:
            # In a turn of its own: answers that need no waiting would pile up on the stack.
            self._idle_until = inf
            self._loop.call_soon(self._resume)
        else:
            reader.waiting = True
            self._idle_until = self._loop.time() + self._options.idle_timeout

    # What its requests' bodies ask of it

    def pause_reading(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def inform(self, status: int, fields: list[tuple[str, str]]) -> None:
        """Send an interim response (1xx); 100 only to a client that waits for it."""
        if self.gone or (status == 100 and (self._reader.complete or not self._upload.invites())):
            return
        self.write(interim_head(status, fields))

    # Requests

    def _begin(self, request: Request) -> None:
        listener = self._listener
        request.peer = request.client = self.peer
        if listener.forwarding.trusts_some:
            request.client = listener.forwarding.client_of(self.peer, request.headers)
            request.scheme = listener.forwarding.scheme_of(self.peer, request.headers) or request.scheme
        self.keep_alive = request.keep_alive
        if not request.http10:
            request.inform = self.inform
        if not self._reader.complete:
            self._upload.begin(request)
        exchange = self._exchange = Exchange(request, listener.clock)
        serving = listener.begin(exchange, self)
        if self._exchange is exchange:  # else it is over already
            self.serving = serving

    def _resume(self) -> None:
        """Go on with what arrived meanwhile, unless the client has not taken yet what it asked for before."""
        reader, transport = self._reader, self._transport
        if self._exchange is not None or reader.waiting or self.blocked or self._ending:
            return
        if transport is None or transport.is_closing():
            return
        if not transport.is_reading():
            transport.resume_reading()
        if reader.pending:
            self._await_head()
        else:
            self._idle_until = self._loop.time() + self._options.idle_timeout
        try:
            request = reader.resume()
        except Problem as problem:
            self._refuse(problem)
            return
        if request is not None:
            self._begin(request)

    def _refuse(self, problem: Problem) -> None:
        """Answer what is no request; nothing that follows on this connection can be trusted."""
        self._listener.count_refusal(problem)
        document = problem.document()
        head = client_head(problem.response(), len(document), b"Connection: close\r\n", self._listener.clock.http_date)
        self.write(head + document)
        if self._transport is not None:
            self._linger(self._transport)

    # Endings and deadlines

    def close_if_idle(self) -> None:
        """Close now if no request is under way."""
        if self._exchange is None and self._transport is not None and not self._lingering:
            self._end(self._transport)

    def leave(self, reason: str) -> bool:
        """Take leave in a tunnel, which then ends by itself within moments; False if there is none to take leave in."""
        return self._tunnel is not None and self._tunnel.leave(reason)

    def cancel(self) -> None:
        """Stop at once: the deadline for draining has passed."""
        if self.serving is not None:
            self.serving.cancel()
        if self._transport is not None:
            self._transport.abort()

    def check(self, now: float) -> None:
        """End the connection if its present phase lasted too long."""
        if self._tunnel is not None:
            self._tunnel.check(now)
        elif self.blocked or self._ending:
            self._check_outflow(now)
        elif self._exchange is None:
            if now > (self._idle_until or self._deadline):
                self._expire()
        elif not self._reader.complete:
            self._upload.check(self._exchange, now)

    def _check_outflow(self, now: float) -> None:
        transport, outflow = self._transport, self._outflow
        if transport is None:
            return
        if outflow is None:
            outflow = self._outflow = Outflow(transport, now)
        else:
            outflow.look(now)
        if outflow.unsent:
            if now - outflow.fell_at > self._options.send_timeout:
                self.cut()
        elif self._lingering and now - outflow.fell_at > LINGER_SECONDS:
            transport.abort()

    def _expire(self) -> None:
        if self._reader.pending:
            self._refuse(RequestTimeout())
        elif self._transport is not None:
            self._end(self._transport)

    def _await_head(self) -> None:
        """From now on the next head has its time."""
        self._idle_until = 0.0
        self._deadline = self._loop.time() + self._options.head_timeout

    def _end(self, transport: Transport) -> None:
        self._ending = True
        transport.close()

    def _linger(self, transport: Transport) -> None:
        """Close for writing, and read on for a moment: a reset for unread bytes could destroy the answer on its way."""
        self._ending = self._lingering = True
        if transport.can_write_eof():
            transport.write_eof()
        if not transport.is_reading():
            transport.resume_reading()
