"""Tunnel: a client and an upstream that speak WebSocket with each other through us (RFC 6455).

What one side says goes over in the stack that brings it. Kept is no more than the beginning of a frame's header and
what the two transports buffer: a side that takes less than the other says slows it down.
"""

from __future__ import annotations

import logging
from asyncio import Future, Protocol, Transport, get_running_loop
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from gateway.body import Body
from gateway.clock import uuid_text
from gateway.pace import Outflow
from gateway.websocket.frames import FrameReader
from gateway.websocket.payload import GOING_AWAY, close_frame

if TYPE_CHECKING:
    from gateway.downstream.serving import Client
    from gateway.exchange import Exchange, Outcome
    from gateway.websocket.handshake import WebSocketOptions

CLOSE_SECONDS: Final = 5.0
"""How long both sides may take to say Close and to end their connections, once one of them or we began with that."""
LINGER_SECONDS: Final = 1.0
"""The same where one broke a rule: what it says then cannot be understood, but it may still hear why."""

log = logging.getLogger(__name__)


class Side(Protocol):
    """One side of a tunnel: what it says goes over to `other`, and `frames` reads it as it passes."""

    other: Side

    def __init__(self, tunnel: Tunnel, frames: FrameReader) -> None:
        self.frames = frames
        self.transport: Transport | None = None
        self.goodbye = b""  # the Close that we say to it, as soon as it is not inside of a frame
        self._tunnel = tunnel
        self._ended = False  # nothing more arrives
        self._told = False  # nothing more is written
        self._blocked = False
        self._outflow: Outflow | None = None

    def take_over(self, transport: Transport) -> None:
        """From now on the connection is this side's."""
        self.transport = transport
        transport.set_protocol(self)

    # What the transport calls

    def data_received(self, data: bytes) -> None:
        frames = self.frames
        self._tunnel.stirred = True
        was_closed = frames.closed
        self.other.write(frames.feed(data))
        if frames.closed and not was_closed:
            self._tunnel.stopped(self)
        elif frames.said_close:
            self._tunnel.part()

    def eof_received(self) -> bool:
        self._ended = True
        self._tunnel.silent(self)
        return not self._told and self.transport is not None and self.transport.can_write_eof()

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self._blocked = False
        self._tunnel.lost(self, error)

    def pause_writing(self) -> None:
        self._blocked = True
        if self.other.transport is not None and not self.other.transport.is_closing():
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        self._blocked = False
        self._outflow = None
        self.other.listen()

    # What the tunnel asks of it

    def listen(self) -> None:
        """Read (again), unless the other side takes nothing at the moment."""
        transport = self.transport
        if transport is not None and not (self._ended or self.other._blocked or transport.is_closing()):
            transport.resume_reading()

    def write(self, data: bytes) -> None:
        if data and self.transport is not None and not self._told:
            self.transport.write(data)
            if self._outflow is not None:
                self._outflow.unsent += len(data)

    def end(self) -> None:
        """Write nothing more; the connection is closed when nothing more arrives either."""
        if self.transport is not None:
            if self._ended or not self.transport.can_write_eof():
                self.transport.close()
            elif not self._told:
                self.transport.write_eof()
        self._told = True

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def took_at(self, now: float) -> float:
        """When it was last seen to take of what waits for it; `now` where nothing waits."""
        if not self._blocked or self.transport is None:
            return now
        if self._outflow is None:
            self._outflow = Outflow(self.transport, now)
        else:
            self._outflow.look(now)
        return self._outflow.fell_at


class Tunnel(Body):
    """The body of a 101: what client and upstream say to each other until one of them ends it, or we do.

    Nobody takes pieces of it. `rest` is what the upstream said right behind its 101; `lost` is told once when its
    connection is gone. Whoever keeps deadlines calls `check`.
    """

    def __init__(
        self,
        options: WebSocketOptions,
        *,
        compressed: bool,
        rest: bytes,
        lost: Callable[[Exception | None], None],
    ) -> None:
        super().__init__()
        largest = options.max_message
        self.client = Side(self, FrameReader(masked=True, max_message=largest, compressed=compressed))
        self.upstream = Side(self, FrameReader(masked=False, max_message=largest, compressed=compressed))
        self.client.other, self.upstream.other = self.upstream, self.client
        self.stirred = True  # somebody said something since the last look
        self._idle = options.idle_timeout
        self._quiet_since = 0.0
        self._deadline = 0.0  # of both connections; 0 while there is more to say
        self._rest = rest
        self._upstream_lost = lost
        self._over: Future[None] | None = None
        self._guilty: Side | None = None  # who ended it in a way that no Close announced
        self._exchange: Exchange | None = None

    async def relay(self, exchange: Exchange, client: Client) -> Outcome:
        """Let both sides talk until both connections are gone, and count on the exchange what they say."""
        loop = get_running_loop()
        self._over, self._quiet_since = loop.create_future(), loop.time()
        self._exchange, exchange.request.body = exchange, Body()
        try:
            self.client.data_received(client.hand_over(self))
            self.upstream.data_received(self._rest)
            self.client.listen()
            self.upstream.listen()
            if self.upstream.transport is None:
                self.lost(self.upstream, None)
            await self._over
        finally:
            self._count(exchange)
            self._exchange = None
        if self._guilty is None:
            return "ok"
        return "client_gone" if self._guilty is self.client else "upstream_error"

    def leave(self, reason: str) -> bool:
        """Say goodbye to both sides, and give them a moment to end their connections; False if that is so already."""
        if self._deadline:
            return False
        self._say_close(self.client, GOING_AWAY, reason)
        self._say_close(self.upstream, GOING_AWAY, reason)
        self.part()
        return True

    def close(self) -> None:
        """Break off at once."""
        self.client.abort()
        self.upstream.abort()

    def check(self, now: float) -> None:
        """Leave when neither side says anything for too long, or one takes nothing; do not wait for ever after that.

        What has been said is counted then, and at the end.
        """
        if self._deadline:
            if now > self._deadline:
                self.close()
            return
        if self.stirred:
            self.stirred, self._quiet_since = False, now
            if self._exchange is not None:
                self._count(self._exchange)
        if now - min(self._quiet_since, self.client.took_at(now), self.upstream.took_at(now)) > self._idle:
            _ = self.leave("idle for too long")

    # What the sides tell

    def stopped(self, side: Side) -> None:
        """Nothing more of what it says goes over: it said Close, broke a rule, or had to stop for our goodbye."""
        violation = side.frames.violation
        if violation is not None:
            self._guilty = side
            who = "client" if side is self.client else "upstream"
            request = uuid_text(self._exchange.id) if self._exchange is not None else "-"
            log.warning("request %s: WebSocket closed, by fault of the %s: %s", request, who, violation.reason)
            self._say_close(side, violation.code, violation.reason)
            self._say_close(side.other, GOING_AWAY, "the other side broke the protocol")
            self.part(LINGER_SECONDS)
        elif not side.frames.said_close:
            side.other.write(side.other.goodbye)
        if self._all_is_said():
            self.part()

    def silent(self, side: Side) -> None:
        """It says nothing more at all, but may still listen."""
        self._blame(side)
        self._end_with(side)
        if self._all_is_said():
            side.end()

    def lost(self, side: Side, error: Exception | None) -> None:
        """Its connection is gone, and what the other side still says is for nobody."""
        if side is self.upstream:
            self._upstream_lost(error)
        self._blame(side)
        other = side.other
        other.frames.closed = True
        self._end_with(side)
        other.listen()
        self.part()
        if other.transport is None:
            self.finish()
            if self._over is not None and not self._over.done():
                self._over.set_result(None)

    # Endings

    def _say_close(self, side: Side, code: int, reason: str) -> None:
        """Unless it has been told by the other side, tell it, at the end of the frame that is on its way to it."""
        source = side.other.frames
        if side.goodbye or source.said_close:
            return
        if source.torn:  # it would never read a Close as one
            side.end()
            return
        side.goodbye = close_frame(code, reason, masked=side is self.upstream)
        source.finish()
        if source.closed:
            side.write(side.goodbye)

    def _end_with(self, side: Side) -> None:
        """End the other one as this one has; but a client that hears a Close of ours may answer it first."""
        other = side.other
        if other is not self.client or not other.goodbye or other.frames.said_close:
            other.end()

    def _all_is_said(self) -> bool:
        return self.client.frames.closed and self.upstream.frames.closed

    def part(self, seconds: float = CLOSE_SECONDS) -> None:
        """Nothing is awaited any more but that both sides say Close, and the ends of their connections.

        We are the client's server, and end first (RFC 6455 §7.1.1); not before it has heard why, and has said so.
        """
        if not self._deadline:
            self._deadline = get_running_loop().time() + seconds
        if self.client.frames.said_close and self.upstream.frames.closed:
            self.client.end()

    def _blame(self, side: Side) -> None:
        """Its connection ends: that is its fault, unless a Close was said by anybody before."""
        said = self.client.frames.said_close or self.upstream.frames.said_close
        if self._guilty is None and not said and not self._deadline:
            self._guilty = side

    def _count(self, exchange: Exchange) -> None:
        exchange.messages_in, exchange.messages_out = self.client.frames.messages, self.upstream.frames.messages
        exchange.bytes_out = self.upstream.frames.size
        exchange.request.body.received = self.client.frames.size
