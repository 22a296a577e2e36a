"""Streaming: a body that is still arriving goes to the client piece by piece, each in the stack that brings it."""

from __future__ import annotations

from asyncio import CancelledError, Future, get_running_loop
from functools import partial
from typing import TYPE_CHECKING

from gateway.forwarding import passing_trailers
from gateway.http1.grammar import chunk, last_chunk

if TYPE_CHECKING:
    from gateway.body import Body
    from gateway.chain import Chain
    from gateway.downstream.serving import Client
    from gateway.exchange import Exchange


class Streaming:
    """Sends `body` behind a `head` that may have been sent already (and is empty then).

    What the client does not take stays in the body, which slows its sender down.
    """

    __slots__ = ("_body", "_chain", "_chunked", "_client", "_exchange", "_head", "_over", "_status", "_waits")

    def __init__(
        self, exchange: Exchange, client: Client, chain: Chain, body: Body, *, status: int, head: bytes, chunked: bool
    ) -> None:
        self._exchange = exchange
        self._client = client
        self._chain = chain
        self._body = body
        self._status = status
        self._head = head
        self._chunked = chunked
        self._waits = False  # for the client, or for the usage event to be safe, or for nothing any more
        self._over: Future[None] = get_running_loop().create_future()

    async def run(self, piece: tuple[bytes, bool] | None) -> None:
        """Until all of it is written, `piece` first. Raises what a hook raised, or what the body failed with."""
        self._body.listener = self._go_on
        try:
            if piece is not None:
                self._pass_on(*piece)
            self._go_on()
            await self._over
        finally:
            self._body.listener = None

    def _go_on(self) -> None:
        """Pass on what is there, for as long as nothing has to be waited for."""
        try:
            while not self._waits and (piece := self._body.take()) is not None:
                self._pass_on(*piece)
        except Exception as error:  # noqa: BLE001 - whoever runs this hears of it
            self._end(error)

    def _pass_on(self, data: bytes, last: bool) -> None:
        """One piece, through the hooks to the client."""
        exchange, chain = self._exchange, self._chain
        if self._client.gone:
            exchange.outcome = "client_gone"
        if chain.sees_body:
            data = chain.passes(exchange, data, last)
        hold = exchange.hold_last
        if hold is not None and (last or exchange.until_close):
            self._waits, exchange.hold_last = True, None
            hold.add_done_callback(partial(self._write_when_safe, data, last))
        else:
            self._write(data, last)

    def _write_when_safe(self, data: bytes, last: bool, safe: Future[None]) -> None:
        error = CancelledError() if safe.cancelled() else safe.exception()
        if error is not None:
            self._end(error)
        elif not self._over.done():
            self._waits = False
            self._write(data, last)
            self._go_on()

    def _write(self, data: bytes, last: bool) -> None:
        client = self._client
        if not client.gone:
            framed = self._framed(data, last) if self._chunked else data
            if self._head:
                framed, self._head = self._head + framed, b""
            if framed:
                client.write(framed)
                self._exchange.status_sent = self._status
            self._exchange.bytes_out += len(data)
        if last:
            self._end(None)
        elif client.blocked:
            self._waits = True
            client.when_drained(self._drained)

    def _framed(self, data: bytes, last: bool) -> bytes:
        framed = chunk(data) if data else b""
        if last:
            accepts = self._exchange.request.accepts_trailers
            framed += last_chunk(passing_trailers(self._body.trailers) if accepts else [])
        return framed

    def _drained(self) -> None:
        self._waits = False
        self._go_on()

    def _end(self, error: BaseException | None) -> None:
        self._waits = True
        if self._over.done():
            return
        if error is None:
            self._over.set_result(None)
        else:
            self._over.set_exception(error)
