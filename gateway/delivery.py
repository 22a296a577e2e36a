"""Delivery: one exchange from its first hook to its last byte; whatever happens, it ends with `finish` exactly once.

The event of a metered request is written by a hook in the moment the last byte is ready, and only then that byte goes
to the socket. Everything before may stream; backpressure runs through both connections.
"""

from __future__ import annotations

import logging
from asyncio import CancelledError, get_running_loop
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol

from gateway.body import Body
from gateway.chain import Chain, as_problem
from gateway.clock import Clock, uuid_text
from gateway.drive import Drive
from gateway.exchange import Exchange, Response
from gateway.forwarding import VIA, passing_trailers
from gateway.http1.grammar import CHUNKED, chunk, last_chunk
from gateway.problem import BadGateway, Problem
from gateway.route import WHY_UNMATCHED, Route, Unmatched

if TYPE_CHECKING:
    from gateway.router import Router
    from gateway.traffic import Traffic

log = logging.getLogger(__name__)

_WITHOUT_BODY: Final = frozenset({204, 304})
_NOTHING: Final[frozenset[str]] = frozenset()
_FRAMING: Final = frozenset({"content-length"})
_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus}


class Client(Protocol):
    """Where a response goes: a client's connection, as far as delivery is concerned."""

    gone: bool
    keep_alive: bool
    blocked: bool

    def write(self, data: bytes) -> None: ...

    async def drain(self) -> None: ...

    def cut(self) -> None: ...

    def done(self) -> None: ...


class Work(Protocol):
    """An exchange being served."""

    def cancel(self) -> object: ...


class BrokenResponse(Exception):
    """A plugin made a response that cannot be sent as it is. The text is for the log."""


class Delivery:
    """Serves exchanges, one call each."""

    def __init__(self, router: Router, unmatched: Unmatched, *, traffic: Traffic, clock: Clock) -> None:
        self._router = router
        self._unmatched = unmatched
        self._traffic = traffic
        self._clock = clock
        self._loop = get_running_loop()
        self._date = b""
        self._date_second = 0

    def begin(self, exchange: Exchange, client: Client) -> Work:
        """Find the route and begin to serve; `cancel` of what is returned means that the client left.

        What never has to wait may be over when this returns.
        """
        route: Route | Unmatched = self._unmatched
        try:
            route, exchange.parameters = self._router.find(exchange.request)
        except Problem as no_route:
            exchange[WHY_UNMATCHED] = no_route
        exchange.route = route.name
        exchange.on_disconnect = route.on_disconnect
        body = exchange.request.body
        if body.length != 0:
            body.limit = route.max_body
            if (body.length or body.received) > body.limit:
                body.refuse()
        work = self._serve(exchange, client, route)
        if route.chain.waits:
            # Not through Background: the connection holds the only reference that is needed, and cancels it.
            return self._loop.create_task(work)
        return Drive(work, self._loop)

    async def _serve(self, exchange: Exchange, client: Client, route: Route | Unmatched) -> None:
        """From head to last byte. Raises nothing; a cancellation means that the client left or the process stops."""
        chain = route.chain
        try:
            response = await chain.respond(exchange, route.forward)
            await self._send(exchange, response, client, chain)
        except CancelledError:
            exchange.outcome = "client_gone"
        except Exception as error:  # noqa: BLE001 - the border: a hook broke while the response was on its way
            self._give_up(exchange, client, as_problem(error, exchange))
        finally:
            if exchange.response is not None:
                exchange.response.close()
            exchange.finished_at = self._clock.monotonic()
            if chain.on_finish:
                chain.finish(exchange)
            self._traffic.count(exchange)
            client.done()

    def _give_up(self, exchange: Exchange, client: Client, problem: Problem) -> None:
        """The response cannot be sent (on): say so if nothing was sent yet, else let the client notice."""
        if exchange.status_sent or client.gone:
            client.cut()
            return
        client.keep_alive = False
        document = problem.document(uuid_text(exchange.id))
        head = self._head(exchange, Response(problem.status, problem.fields()), client, False, len(document))
        self._write(exchange, client, problem.status, head if exchange.request.method == "HEAD" else head + document)

    async def _send(self, exchange: Exchange, response: Response, client: Client, chain: Chain) -> None:
        request, body = exchange.request, response.body
        if not request.body.complete:
            client.keep_alive = False  # what is left of the request is not read: there is no next one
        without_body = request.method == "HEAD" or response.status in _WITHOUT_BODY
        piece: tuple[bytes, bool] | None
        if not isinstance(body, Body):
            piece = body, True
        elif without_body:
            piece = b"", True
        else:
            try:
                piece = body.take()
            except Exception as error:  # noqa: BLE001 - whatever ended the body before a byte of the head was sent
                log.warning("request %s: upstream %s: %s", uuid_text(exchange.id), exchange.upstream, error)
                exchange.outcome = "upstream_error"
                exchange.response = BadGateway().response(uuid_text(exchange.id))
                await self._send(exchange, exchange.response, client, chain)
                return
            if piece is None or not piece[1] or (body.trailers and request.accepts_trailers):
                await self._stream(exchange, response, client, chain, body, piece)
                return
        # Head and body in one write: the usual case.
        data = b"" if without_body else piece[0]
        if client.gone:
            exchange.outcome = "client_gone"
        if chain.on_chunk:
            data = chain.passes(exchange, data, True)
        head = self._head(exchange, response, client, without_body, len(data))
        if exchange.hold_last is not None:
            await exchange.hold_last
        if not client.gone:
            client.write(head if without_body else head + data)
            exchange.status_sent = response.status
            exchange.bytes_out = 0 if without_body else len(data)

    async def _stream(
        self,
        exchange: Exchange,
        response: Response,
        client: Client,
        chain: Chain,
        body: Body,
        piece: tuple[bytes, bool] | None,
    ) -> None:
        request = exchange.request
        declared = response.headers.get("content-length")
        chunked = declared is None and not request.http10
        if declared is None and request.http10:
            exchange.until_close = True
            client.keep_alive = False
        head = self._head(exchange, response, client, not chunked, CHUNKED)
        if piece is None and not exchange.until_close:
            self._write(exchange, client, response.status, head)
            head = b""
        try:
            last = False
            while not last:
                data, last = piece or await body.next()
                piece = None
                if client.gone:
                    exchange.outcome = "client_gone"
                if chain.on_chunk:
                    data = chain.passes(exchange, data, last)
                if exchange.hold_last is not None and (last or exchange.until_close):
                    await exchange.hold_last
                    exchange.hold_last = None
                framed = _in_chunks(data, last, body, request.accepts_trailers) if chunked else data
                self._write(exchange, client, response.status, head + framed if head else framed)
                head = b""
                if not client.gone:
                    exchange.bytes_out += len(data)
                if client.blocked and not last:
                    await client.drain()
            if declared is not None and exchange.bytes_out != int(declared) and not client.gone:
                raise BrokenResponse(f"{exchange.bytes_out} bytes were sent where {declared} were announced")
        except CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever broke the body off: the client must notice
            exchange.outcome = "upstream_error"
            log.warning("request %s: response broken off: %s", uuid_text(exchange.id), error)
            client.cut()

    @staticmethod
    def _write(exchange: Exchange, client: Client, status: int, data: bytes) -> None:
        if data and not client.gone:
            client.write(data)
            exchange.status_sent = status

    def _head(self, exchange: Exchange, response: Response, client: Client, as_it_came: bool, length: int = 0) -> bytes:
        """A response's head; `length` is its body's or CHUNKED, and of no meaning if the framing stays as it came."""
        status, headers = response.status, response.headers
        start = _STATUS_LINES.get(status)
        if response.reason is not None or start is None:
            start = b"HTTP/1.1 %d %b" % (status, response.reason or b"")
        lines = [start]
        lines += headers.without(_NOTHING if as_it_came and status != 204 else _FRAMING)
        if not as_it_came:
            lines.append(b"Transfer-Encoding: chunked" if length == CHUNKED else b"Content-Length: %d" % length)
        if "date" not in headers:
            lines.append(self._date_line())
        if response.proxied:
            lines.append(VIA)
        if not client.keep_alive:
            lines.append(b"Connection: close")
        elif exchange.request.http10:
            lines.append(b"Connection: keep-alive")
        lines.append(b"\r\n")
        return b"\r\n".join(lines)

    def _date_line(self) -> bytes:
        second = self._clock.micros() // 1_000_000
        if second != self._date_second:
            self._date_second = second
            self._date = f"Date: {formatdate(second, usegmt=True)}".encode()
        return self._date


def _in_chunks(data: bytes, last: bool, body: Body, accepts_trailers: bool) -> bytes:
    framed = chunk(data) if data else b""
    return framed + last_chunk(passing_trailers(body.trailers) if accepts_trailers else []) if last else framed
