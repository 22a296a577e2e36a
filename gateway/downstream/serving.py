"""Serving: one exchange from its first hook to its last byte; whatever happens, it ends with `finish` exactly once.

The event of a metered request is written by a hook in the moment the last byte is ready, and only then that byte goes
to the socket. Everything before may stream; backpressure runs through both connections.

The usual exchange waits once, for its upstream, and goes on in the stack that brings the answer. Only what has to wait
more often is a coroutine: a chain with hooks that wait is a task, a body that is still arriving a Drive.
"""

from __future__ import annotations

import logging
from asyncio import CancelledError, Task
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from gateway.body import Body
from gateway.chain import as_problem
from gateway.clock import uuid_text
from gateway.downstream.drive import Drive
from gateway.exchange import Exchange, Response
from gateway.forwarding import client_head, passing_trailers
from gateway.http1.grammar import CHUNKED, chunk, last_chunk
from gateway.problem import BadGateway, Problem
from gateway.upstream.call import response_of

if TYPE_CHECKING:
    from gateway.downstream.delivery import Delivery
    from gateway.route import Route, Unmatched
    from gateway.upstream.call import Underway

Sending: TypeAlias = Coroutine[Any, Any, None]
"""What is left of sending a response, and has to wait."""

log = logging.getLogger(__name__)

_WITHOUT_BODY: Final = frozenset({204, 304})


class Client(Protocol):
    """Where a response goes: a client's connection, as far as serving is concerned."""

    gone: bool
    keep_alive: bool
    blocked: bool

    def write(self, data: bytes) -> None: ...

    async def drain(self) -> None: ...

    def cut(self) -> None: ...

    def done(self) -> None: ...


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
        if chain.waits:
            # Not through Background: the connection holds the only reference that is needed, and cancels it.
            self._work = self.delivery.loop.create_task(self._walk())
            return
        try:
            response = chain.enter(exchange)
        except Exception as error:  # noqa: BLE001 - the border: what is no Problem becomes one, and is logged
            response = self._problem(error)
        if response is not None:
            self._respond(response)
        else:
            self._call = route.forward(exchange, self)

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

    async def _walk(self) -> None:
        """In and out again through a chain that waits."""
        exchange = self._exchange
        try:
            response = await self._route.chain.respond(exchange, self._forward)
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
        if not self._client.gone:
            self._client.write(head + data)
            exchange.status_sent = status
            exchange.bytes_out = len(data)

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
        try:
            last = False
            while not last:
                data, last = piece or await body.next()
                piece = None
                await self._pass_on(data, last, response.status, head, body if chunked else None)
                head = b""
            if declared is not None and exchange.bytes_out != int(declared) and not client.gone:
                raise BrokenResponse(f"{exchange.bytes_out} bytes were sent where {declared} were announced")
        except CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever broke the body off: the client must notice
            exchange.outcome = "upstream_error"
            log.warning("request %s: response broken off: %s", uuid_text(exchange.id), error)
            client.cut()

    async def _pass_on(self, data: bytes, last: bool, status: int, head: bytes, chunked: Body | None) -> None:
        """One piece of a body that streams, through the hooks to the client, and wait if it takes no more."""
        exchange, client, chain = self._exchange, self._client, self._route.chain
        if client.gone:
            exchange.outcome = "client_gone"
        if chain.sees_body:
            data = chain.passes(exchange, data, last)
        if exchange.hold_last is not None and (last or exchange.until_close):
            await exchange.hold_last
            exchange.hold_last = None
        framed = data if chunked is None else _in_chunks(data, last, chunked, exchange.request.accepts_trailers)
        self._write(status, head + framed if head else framed)
        if not client.gone:
            exchange.bytes_out += len(data)
        if client.blocked and not last:
            await client.drain()

    def _write(self, status: int, data: bytes) -> None:
        if data and not self._client.gone:
            self._client.write(data)
            self._exchange.status_sent = status

    def _persistence(self) -> bytes:
        """What has to be said about whether the connection goes on (RFC 9112 §9.3)."""
        if not self._client.keep_alive:
            return b"Connection: close\r\n"
        return b"Connection: keep-alive\r\n" if self._exchange.request.http10 else b""


def _in_chunks(data: bytes, last: bool, body: Body, accepts_trailers: bool) -> bytes:
    framed = chunk(data) if data else b""
    return framed + last_chunk(passing_trailers(body.trailers) if accepts_trailers else []) if last else framed
