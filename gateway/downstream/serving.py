"""Serving: one exchange from its first hook to its last byte; whatever happens, it ends with `finish` exactly once.

The event of a metered request is written by a hook in the moment the last byte is ready, and only then that byte goes
to the socket. Everything before may stream; backpressure runs through both connections.

The usual exchange waits once, for its upstream, and goes on in the stack that brings the answer. Only what has to wait
more often is a coroutine: a chain with hooks that wait is a task, a body that is still arriving a Drive; but each of
its pieces goes on, once more, in the stack that brings it (`streaming.py`).
"""

from __future__ import annotations

import logging
from asyncio import CancelledError, Task
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from gateway.body import Body
from gateway.chain import Entering, as_problem
from gateway.clock import uuid_text
from gateway.downstream.drive import Drive
from gateway.downstream.streaming import Streaming
from gateway.exchange import Exchange, Response
from gateway.forwarding import WEBSOCKET, client_head
from gateway.http1.grammar import CHUNKED
from gateway.problem import BadGateway, Problem
from gateway.upstream.call import response_of
from gateway.upstream.tunnel import Tunnel

if TYPE_CHECKING:
    from gateway.downstream.delivery import Delivery
    from gateway.route import Route, Unmatched
    from gateway.upstream.call import Underway

Sending: TypeAlias = Coroutine[Any, Any, None]
"""What is left of sending a response, and has to wait."""

log = logging.getLogger(__name__)

_WITHOUT_BODY: Final = frozenset({204, 304})
_SWITCHING: Final = WEBSOCKET.encode()


class Client(Protocol):
    """Where a response goes: a client's connection, as far as serving is concerned."""

    gone: bool
    keep_alive: bool
    blocked: bool

    def write(self, data: bytes) -> None: ...

    def when_drained(self, go_on: Callable[[], None]) -> None: ...

    def cut(self) -> None: ...

    def done(self) -> None: ...

    def hand_over(self, tunnel: Tunnel) -> bytes: ...


class BrokenResponse(Exception):
    """A plugin made a response that cannot be sent as it is. The text is for the log."""


class Serving:
    """An exchange being served; it is the Caller of its upstream."""

    __slots__ = ("_call", "_client", "_exchange", "_route", "_work", "delivery")

    def __init__(self, exchange: Exchange, client: Client, route: Route | Unmatched, delivery: Delivery) -> None:
        self._exchange = exchange
        self._client = client
        self._route = route
        self.delivery = delivery
        self._call: Underway | None = None
        self._work: Drive | Task[None] | None = None

    def begin(self) -> None:
        """Walk in. What never has to wait may be over when this returns."""
        exchange, route = self._exchange, self._route
        chain = route.chain
        try:
            answer = chain.enter(exchange)
        except Exception as error:  # noqa: BLE001 - the border: what is no Problem becomes one, and is logged
            answer = self._problem(error)
        if answer is None:
            self._call = route.forward(exchange, self)
        elif isinstance(answer, Response):
            self._respond(answer)
        else:
            # Not through Background: the connection holds the only reference that is needed, and cancels it.
            self._work = self.delivery.loop.create_task(self._walk(answer))

    def cancel(self) -> None:
        """The client left, or the process stops."""
        if self._work is not None:
            self._work.cancel()
        else:
            self._exchange.outcome = "client_gone"
            if self._call is not None:
                self._call.cancel()
            self._finish()

    # The Caller of the upstream

    def answered(self, response: Response) -> None:
        self._call = None  # it knows us: a cycle would wait for the garbage collector
        if response.proxied:
            self._exchange.upstream_headed_at = self.delivery.clock.monotonic()
        self._respond(response)

    def failed(self, error: Exception) -> None:
        self._call = None
        self._respond(self._problem(error))

    # From the response to the end

    def _problem(self, error: Exception) -> Response:
        return as_problem(error, self._exchange).response(uuid_text(self._exchange.id))

    async def _walk(self, entering: Entering) -> None:
        """In and out again through a chain that waits."""
        exchange = self._exchange
        try:
            response = await self._route.chain.respond(exchange, self._forward, entering)
            sending = self._send(response)
            if sending is not None:
                await sending
        except CancelledError:
            exchange.outcome = "client_gone"
        except Exception as error:  # noqa: BLE001 - the border: a hook broke while the response was on its way
            self._give_up(as_problem(error, exchange))
        self._finish()

    async def _forward(self, exchange: Exchange) -> Response:
        response = await response_of(lambda caller: self._route.forward(exchange, caller))
        if response.proxied:
            exchange.upstream_headed_at = self.delivery.clock.monotonic()
        return response

    def _respond(self, response: Response) -> None:
        """Walk out and send."""
        exchange, chain = self._exchange, self._route.chain
        exchange.response = response
        sending: Sending | None = None
        try:
            if chain.on_response:
                response = exchange.response = chain.leave(exchange, response)
            sending = self._send(response)
        except Exception as error:  # noqa: BLE001 - the border, as above
            self._give_up(as_problem(error, exchange))
        if sending is None:
            self._finish()
        else:
            self._work = Drive(self._conclude(sending), self.delivery.loop)

    async def _conclude(self, sending: Sending) -> None:
        try:
            await sending
        except CancelledError:
            self._exchange.outcome = "client_gone"
        except Exception as error:  # noqa: BLE001 - the border, as above
            self._give_up(as_problem(error, self._exchange))
        self._finish()

    def _finish(self) -> None:
        exchange, chain = self._exchange, self._route.chain
        response = exchange.response
        if response is not None and type(response.body) is not bytes:
            response.close()
        exchange.finished_at = self.delivery.clock.monotonic()
        if chain.on_finish:
            chain.finish(exchange)
        self.delivery.traffic.count(exchange)
        self._client.done()

    def _give_up(self, problem: Problem) -> None:
        """The response cannot be sent (on): say so if nothing was sent yet, else let the client notice."""
        exchange, client = self._exchange, self._client
        if exchange.status_sent or client.gone:
            client.cut()
            return
        client.keep_alive = False
        response = problem.response(uuid_text(exchange.id))
        document = response.body if isinstance(response.body, bytes) else b""
        head = client_head(response, len(document), self._persistence(), self.delivery.clock.http_date)
        self._write(problem.status, head if exchange.request.method == "HEAD" else head + document)

    def _send(self, response: Response) -> Sending | None:
        """Head and body in one write, the usual case; what is returned is still to be done, and has to wait."""
        exchange, client, chain = self._exchange, self._client, self._route.chain
        request, body = exchange.request, response.body
        if not request.body.complete:
            client.keep_alive = False  # what is left of the request is not read: there is no next one
        without_body = request.method == "HEAD" or response.status in _WITHOUT_BODY
        if without_body:
            data = b""
        elif isinstance(body, bytes):
            data = body
        elif isinstance(body, Tunnel):
            return self._upgrade(response, body)
        else:
            try:
                piece = body.take()
            except Exception as error:  # noqa: BLE001 - whatever ended the body before a byte of the head was sent
                return self._send_instead(error)
            if piece is None or not piece[1] or (body.trailers and request.accepts_trailers):
                return self._stream(response, body, piece)
            data = piece[0]
        if client.gone:
            exchange.outcome = "client_gone"
        if chain.sees_body:
            data = chain.passes(exchange, data, True)
        persistence = b"" if client.keep_alive and not request.http10 else self._persistence()
        head = client_head(response, None if without_body else len(data), persistence, self.delivery.clock.http_date)
        if without_body:
            data = b""
        if exchange.hold_last is not None:
            return self._send_when_safe(response.status, head, data)
        if not client.gone:
            client.write(head + data)
            exchange.status_sent = response.status
            exchange.bytes_out = len(data)
        return None

    def _send_instead(self, error: Exception) -> Sending | None:
        """The body ended before any of it could be sent on: the client gets a problem instead of half a response."""
        exchange = self._exchange
        log.warning("request %s: upstream %s: %s", uuid_text(exchange.id), exchange.upstream, error)
        exchange.outcome = "upstream_error"
        exchange.response = BadGateway().response(uuid_text(exchange.id))
        return self._send(exchange.response)

    async def _send_when_safe(self, status: int, head: bytes, data: bytes) -> None:
        """Send once the usage event is where the configuration wants it to be."""
        exchange = self._exchange
        if exchange.hold_last is not None:
            await exchange.hold_last
        self._write(status, head + data)
        if not self._client.gone:
            exchange.bytes_out = len(data)

    def _upgrade(self, response: Response, tunnel: Tunnel) -> Sending | None:
        """The client gets its tunnel, unless a plugin refuses it that."""
        exchange = self._exchange
        try:
            self._route.chain.upgrade(exchange)
        except Exception as error:  # noqa: BLE001 - the border, as above
            response.close()
            exchange.response = self._problem(error)
            return self._send(exchange.response)
        return self._relay(response, tunnel)

    async def _relay(self, response: Response, tunnel: Tunnel) -> None:
        """Until its end the connection is the tunnel's."""
        exchange, client = self._exchange, self._client
        if client.gone:
            exchange.outcome = "client_gone"
            return
        self._write(101, client_head(response, None, _SWITCHING, self.delivery.clock.http_date))
        with self.delivery.traffic.websocket(exchange):
            exchange.outcome = await tunnel.relay(exchange, client)
        self._route.chain.passes(exchange, b"", True)

    async def _stream(self, response: Response, body: Body, piece: tuple[bytes, bool] | None) -> None:
        exchange, client = self._exchange, self._client
        request = exchange.request
        declared = response.headers.get("content-length")
        chunked = declared is None and not request.http10
        if declared is None and request.http10:
            exchange.until_close = True
            client.keep_alive = False
        head = client_head(response, CHUNKED if chunked else None, self._persistence(), self.delivery.clock.http_date)
        if piece is None and not exchange.until_close:
            self._write(response.status, head)
            head = b""
        chain, status = self._route.chain, response.status
        try:
            await Streaming(exchange, client, chain, body, status=status, head=head, chunked=chunked).run(piece)
            if declared is not None and exchange.bytes_out != int(declared) and not client.gone:
                raise BrokenResponse(f"{exchange.bytes_out} bytes were sent where {declared} were announced")
        except CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever broke the body off: the client must notice
            exchange.outcome = "upstream_error"
            log.warning("request %s: response broken off: %s", uuid_text(exchange.id), error)
            client.cut()

    def _write(self, status: int, data: bytes) -> None:
        if data and not self._client.gone:
            self._client.write(data)
            self._exchange.status_sent = status

    def _persistence(self) -> bytes:
        """What has to be said about whether the connection goes on (RFC 9112 §9.3)."""
        if not self._client.keep_alive:
            return b"Connection: close\r\n"
        return b"Connection: keep-alive\r\n" if self._exchange.request.http10 else b""
