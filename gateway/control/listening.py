"""Listening: the connections that the API is asked on, so many and no more, and what is told to who speaks no HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ssl import SSLContext
from typing import Any, Final

from aiohttp import web

from gateway.clock import Clock, uuid_text
from gateway.downstream.listener import parse_bind
from gateway.metrics import Metrics
from gateway.problem import BadRequest, Problem
from gateway.stores.store import StoreUnavailable

MOST_CONNECTIONS: Final = 1000
"""Open at once; one more is closed as soon as it is there."""
SERVER: Final = "tallygate"
"""What it calls itself, without a version."""
_HANDSHAKE_SECONDS: Final = 10.0
_SPEAKING: Final[dict[str, Any]] = {
    "access_log": None,
    "lingering_time": 0.5,
    "keepalive_timeout": 30.0,
    "auto_decompress": False,
}


class _Connection(web.RequestHandler):
    """One of a client that may speak no HTTP: it is told so by a problem, as everything else that is wrong."""

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Called by aiohttp for what it could not read, and for what went wrong where nobody of ours sees it."""
        answer = answer_of(BadRequest() if status < 500 else Problem(), uuid_text(Clock().uuid7()))
        answer.headers["server"] = SERVER
        answer.force_close()
        return answer


class _Refused(asyncio.Protocol):
    """One too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Closes it."""
        transport.close()


def answer_of(problem: Problem, instance: str) -> web.Response:
    """A problem as aiohttp answers it."""
    answer = problem.response(instance)
    return web.Response(status=answer.status, headers=list(answer.headers.items()), body=answer.body)


@asynccontextmanager
async def listening(
    application: web.Application, bind: str, context: SSLContext | None = None, *, metrics: Metrics
) -> AsyncIterator[tuple[str, int]]:
    """Serves an application at this address; what is under way at the end has a second. Raises StoreUnavailable."""
    refused = metrics.counter(
        "tallygate_control_connections_refused_total", "Connections to the API that were one too many."
    )
    runner = web.AppRunner(application, shutdown_timeout=1.0, **_SPEAKING)
    await runner.setup()
    server, loop = runner.server, asyncio.get_running_loop()
    if server is None:
        raise RuntimeError("a runner that is set up has a server")

    def connected() -> asyncio.Protocol:
        if len(server.connections) < MOST_CONNECTIONS:
            return _Connection(server, loop=loop, **_SPEAKING)
        refused.inc()
        return _Refused()

    try:
        host, port = parse_bind(bind)
        patience = None if context is None else _HANDSHAKE_SECONDS
        try:
            accepting = await loop.create_server(connected, host, port, ssl=context, ssl_handshake_timeout=patience)
        except OSError as error:
            raise StoreUnavailable(f"the control plane cannot listen on {bind}: {error.strerror}") from error
        try:
            yield accepting.sockets[0].getsockname()[:2]
        finally:
            accepting.close()
    finally:
        await runner.cleanup()
