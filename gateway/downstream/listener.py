"""Listener: an address that clients connect to: how many may, what each may cost, and how the last ones leave."""

from __future__ import annotations

import re
from asyncio import Future, Server, get_running_loop, wait_for
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import ip_address
from socket import socket
from typing import Annotated, Final, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from gateway.background import Background
from gateway.clock import Clock
from gateway.downstream.client_connection import ClientConnection
from gateway.downstream.secure_connection import SecureConnection
from gateway.downstream.serving import Serving
from gateway.exchange import Exchange
from gateway.forwarding import Forwarding
from gateway.metrics import GaugePart, Metrics
from gateway.options import Duration, Options, Size
from gateway.problem import Problem
from gateway.tls.server import ListenerTlsOptions, ServerTls
from gateway.tls.stream import TlsStream

BACKLOG: Final = 4096
CHECK_SECONDS: Final = 0.25
"""How often deadlines are looked at; they are kept to within this, at no cost per request."""


def parse_bind(value: str) -> tuple[str, int]:
    """`0.0.0.0:8080` or `[::1]:8080` as host and port. Raises ValueError."""
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:]+)\]|([^\[\]:]+)):(\d{1,5})", value)
    if match is None or int(match[3]) > 65535:
        raise ValueError(f"not an address to listen on: {value!r} (write 0.0.0.0:8080 or [::1]:8080)")
    return match[1] or match[2], int(match[3])


def is_local(bind: str) -> bool:
    """Whether only this machine can connect there. A name other than localhost may mean any address."""
    host, _ = parse_bind(bind)
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _can_be_bound(value: str) -> str:
    parse_bind(value)
    return value


Bind: TypeAlias = Annotated[str, AfterValidator(_can_be_bound)]
"""An address to listen on."""


class ListenerOptions(Options):
    """One address that clients connect to, and what a client may cost before it is let in."""

    bind: Bind
    """Address and port, such as `0.0.0.0:8080` or `[::]:8080`."""
    tls: ListenerTlsOptions | None = None
    """HTTPS: which certificates are shown, and which are asked for."""
    redirect_to_https: bool | Annotated[int, Field(ge=1, le=65535)] = False
    """Send all clients to HTTPS: `true` to port 443, a number to that port."""
    head_timeout: Duration = Field(default=10.0, gt=0)
    """A request's head must be complete this long after its first byte (or after the connection opened: the TLS
    handshake is part of it).
    """
    idle_timeout: Duration = Field(default=75.0, gt=0)
    """A connection between two requests is closed after this long."""
    minimum_body_rate: Size = 240
    """Bytes a second below which a request's body is given up, measured over ten seconds."""
    send_timeout: Duration = Field(default=60.0, gt=0)
    """A client that takes nothing of its response for this long is disconnected."""
    max_head: Size = Field(default=32 * 1024, ge=1024)
    """Largest request head: request line and header fields together."""
    max_connections: int = Field(default=32768, ge=1)
    """Connections per process; the next one is closed at once."""
    max_connections_per_address: int = Field(default=16384, ge=1)
    """Connections per process from one address, unless it is a trusted proxy; the next one is closed at once."""

    @model_validator(mode="after")
    def _redirects_elsewhere(self) -> ListenerOptions:
        if self.https_port is not None and self.tls is not None:
            raise ValueError("`redirect_to_https` belongs to a listener without `tls`: this one would lead to itself")
        return self

    @property
    def https_port(self) -> int | None:
        """The port that clients are sent to, None where they are served."""
        return 443 if self.redirect_to_https is True else self.redirect_to_https or None

    @property
    def terms(self) -> object:
        """What a client must bring to be let in."""
        return self.tls.terms if self.tls is not None else None


class Listener:
    """One address: its connections, who may open another, and what a request is handed to."""

    def __init__(
        self,
        options: ListenerOptions,
        begin: Callable[[Exchange, ClientConnection], Serving],
        *,
        forwarding: Forwarding,
        clock: Clock,
        metrics: Metrics,
        tls: ServerTls | None = None,
    ) -> None:
        self.options = options
        self.tls = tls
        self.forwarding = forwarding
        self.clock = clock
        self.loop = get_running_loop()
        self.draining = False  # it accepts nobody any more
        self.stopping = False  # neither does any other: the process ends
        self.begin = begin
        self._connections: set[ClientConnection] = set()
        self._per_address: dict[str, int] = {}
        self._server: Server | None = None
        self._background: Background | None = None
        self._empty: Future[None] | None = None  # done when the last connection is gone
        opened = metrics.gauge("tallygate_client_connections", "Open client connections.", ("bind",))
        self._open = GaugePart(opened.labels(options.bind))
        self._turned_away = metrics.counter(
            "tallygate_connections_refused_total", "Client connections closed because there were too many.", ("bind",)
        ).labels(options.bind)
        self._refused = metrics.counter(
            "tallygate_malformed_requests_total", "Requests refused before routing, by problem.", ("problem",)
        )

    async def start(self, sock: socket, background: Background) -> None:
        """Accept clients on a socket that is bound already. `background` is this listener's own."""
        self._background = background
        self._server = await self.loop.create_server(self._connection, sock=sock, backlog=BACKLOG)
        background.every(CHECK_SECONDS, self._check_all, f"deadlines of {self.options.bind}")

    def admits(self, connection: ClientConnection) -> bool:
        """Whether there is room for one more connection from its address; then it counts."""
        peer = connection.peer
        of_peer = self._per_address.get(peer, 0)
        if (
            self.draining
            or len(self._connections) >= self.options.max_connections
            or (of_peer >= self.options.max_connections_per_address and not self.forwarding.trusts(peer))
        ):
            self._turned_away.inc()
            return False
        self._per_address[peer] = of_peer + 1
        self._connections.add(connection)
        self._open.set(len(self._connections))
        return True

    def forget(self, connection: ClientConnection) -> None:
        """A connection is gone, and what it asked for is over."""
        if connection not in self._connections:
            return
        self._connections.remove(connection)
        if not self._connections and self._empty is not None and not self._empty.done():
            self._empty.set_result(None)
        self._open.set(len(self._connections))
        left = self._per_address[connection.peer] - 1
        if left:
            self._per_address[connection.peer] = left
        else:
            del self._per_address[connection.peer]

    @property
    def empty(self) -> bool:
        """Whether there is no connection, nor anything under way for a client that has left."""
        return not self._connections

    def in_flight(self) -> Iterator[ClientConnection]:
        """The connections on which an exchange is under way."""
        return (connection for connection in self._connections if connection.serving is not None)

    def count_refusal(self, problem: Problem) -> None:
        """A client sent what is no request."""
        self._refused.labels(problem.slug).inc()

    def change(
        self,
        options: ListenerOptions,
        begin: Callable[[Exchange, ClientConnection], Serving],
        forwarding: Forwarding,
        tls: ServerTls | None,
    ) -> None:
        """From now on requests are handed to this `begin`; the options count for connections that are opened now.

        Connections that were let in on other terms end with what is in flight on them.
        """
        terms = self.options.terms
        self.options = options
        self.begin = begin
        self.forwarding = forwarding
        self.tls = tls
        if options.terms != terms:
            self._see_off()

    def close(self) -> None:
        """Stop accepting; connections end with what is in flight on them."""
        self.draining = True
        if self._server is not None:
            self._server.close()
        self._see_off()

    async def stop(self) -> None:
        """Look after connections no more; there are none."""
        if self._background is not None:
            await self._background.stop()

    async def drain(self, deadline_seconds: float) -> None:
        """Stop accepting, let what is in flight finish, and after the deadline break off what has not."""
        self.stopping = True
        self.close()
        for connection in list(self._connections):
            _ = connection.leave("the gateway stops")
        if self._connections:
            self._empty = self.loop.create_future()
            with suppress(TimeoutError):
                await wait_for(self._empty, deadline_seconds)
        for connection in list(self._connections):
            connection.cancel()

    def _connection(self) -> ClientConnection | TlsStream:
        """What a socket that was accepted is handed to."""
        return ClientConnection(self) if self.tls is None else self.tls.stream(SecureConnection(self))

    def _see_off(self) -> None:
        for connection in list(self._connections):
            connection.keep_alive = False  # an answer under way says so, and its client sends no more on it
            connection.close_if_idle()

    def _check_all(self) -> None:
        now = self.loop.time()
        for connection in list(self._connections):
            connection.check(now)
