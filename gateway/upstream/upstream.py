"""Upstream: a named service behind the gateway; picks a target, calls it, minds the deadlines."""

from __future__ import annotations

import logging
from asyncio import get_running_loop, timeout
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field, field_validator

from gateway.exchange import Request
from gateway.forwarding import Forwarding, upstream_head
from gateway.http1.grammar import IDEMPOTENT, valid_host
from gateway.http1.response_head import Malformed
from gateway.metrics import GaugePart
from gateway.options import Duration, Options, Size
from gateway.problem import BadGateway, GatewayTimeout, Overloaded, Problem
from gateway.upstream.balancer import RoundRobin
from gateway.upstream.call import Call, Caller
from gateway.upstream.connection import Connection, Lost, TimedOut
from gateway.upstream.pool import Pool
from gateway.upstream.target import Target, TargetOptions

if TYPE_CHECKING:
    from gateway.background import Background
    from gateway.metrics import Metrics

log = logging.getLogger(__name__)

SWEEP_SECONDS: Final = 0.1
"""How often deadlines are looked at; they are kept to within this, at no cost per request."""


class TimeoutOptions(Options):
    """Deadlines of one call; each is answered 504 when the head was not sent yet, and cuts the response otherwise."""

    connect: Duration = 2.0
    """Opening a connection to a target."""
    first_byte: Duration = 30.0
    """From the request's last byte to the head of the response."""
    idle: Duration = 60.0
    """Silence between two pieces of a body, in either direction."""
    total: Duration = 300.0
    """The whole call."""


class UpstreamOptions(Options):
    """A service and the addresses that provide it."""

    targets: list[TargetOptions] = Field(min_length=1)
    """The addresses, taken in turn."""
    balancer: Literal["round_robin"] = "round_robin"
    """How a target is picked."""
    timeouts: TimeoutOptions = TimeoutOptions()
    """Deadlines of one call."""
    max_connections: int = Field(default=512, ge=1)
    """Connections of one process to all targets together."""
    max_waiting: int = Field(default=1024, ge=0)
    """Calls of one process that may wait for a connection; the next one is answered 503 at once."""
    wait_timeout: Duration = 1.0
    """How long a call waits for a connection before it is answered 503."""
    keepalive_timeout: Duration = 55.0
    """How long an unused connection stays open; keep it below the targets' own limit."""
    max_response_head: Size = 64 * 1024
    """Largest head of a response; a larger one is answered 502."""
    host: str = "preserve"
    """The Host field sent upstream: `preserve` the client's, the `target`'s own, or a literal name."""

    @field_validator("host")
    @classmethod
    def _host_is_a_name(cls, value: str) -> str:
        if not valid_host(value):
            raise ValueError(f"not a host: {value!r} (write preserve, target or a name such as api.example.com)")
        return value

    @field_validator("targets", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return (
            [{"url": item} if isinstance(item, str) else item for item in value] if isinstance(value, list) else value
        )


class Upstream:
    """A named service. `call` is the whole of what the rest of the gateway knows about it."""

    def __init__(
        self, name: str, options: UpstreamOptions, *, forwarding: Forwarding, background: Background, metrics: Metrics
    ) -> None:
        self.name = name
        self.options = options
        self._timeouts = options.timeouts
        self._time = get_running_loop().time
        self._total = options.timeouts.total
        self._preserves_host = options.host == "preserve"
        self._host = None if options.host in ("preserve", "target") else options.host
        self.forwarding = forwarding
        self._background = background
        self._balancer = RoundRobin([Target(target) for target in options.targets])
        self.pool = Pool(
            self._open,
            limit=options.max_connections,
            max_waiting=options.max_waiting,
            wait_timeout=options.wait_timeout,
            keepalive_timeout=options.keepalive_timeout,
        )
        self._failures = metrics.counter(
            "tallygate_upstream_failures_total",
            "Calls that brought no response, by what went wrong.",
            ("upstream", "reason"),
        )
        connections = metrics.gauge(
            "tallygate_upstream_connections", "Connections to the upstream's targets, by state.", ("upstream", "state")
        )
        self._active = GaugePart(connections.labels(name, "active"))
        self._idle = GaugePart(connections.labels(name, "idle"))
        waiting = metrics.gauge("tallygate_upstream_waiting", "Calls that wait for a connection.", ("upstream",))
        self._waiting = GaugePart(waiting.labels(name))

    def call(self, request: Request, caller: Caller) -> Call:
        """Send the request to a target; the caller hears of the response once its head is there."""
        now = self._time()
        call = Call(self, request, caller, self._balancer.pick(), now + self._total)
        self._attempt(call, now)
        return call

    def failed(self, call: Call, error: Exception) -> None:
        """An attempt failed: try again where that is safe, or tell the caller."""
        connection, call.connection = call.connection, None
        request = call.request
        if isinstance(error, Lost):
            if (
                error.unanswered
                and connection is not None
                and not connection.fresh
                and request.method in IDEMPOTENT
                and request.body.rewind()
            ):
                # A connection kept alive had gone stale: not this call's failure (RFC 9110 §9.2.2).
                self._attempt(call, self._time())
                return
            self._count_failure(call.target, "lost", error)
            error = _because(BadGateway(), error)
        elif isinstance(error, TimedOut | TimeoutError):
            self._count_failure(call.target, "timeout", error)
            error = _because(GatewayTimeout(), error)
        elif isinstance(error, OSError | Malformed):
            self._count_failure(call.target, "malformed" if isinstance(error, Malformed) else "connect", error)
            error = _because(BadGateway(), error)
        call.caller.failed(error)

    def _attempt(self, call: Call, now: float) -> None:
        connection = self.pool.take(call.target)
        if connection is None:
            call.opening = self._background.start(self._open_for(call), "connection")
        else:
            self._send(call, connection, now)

    def _send(self, call: Call, connection: Connection, now: float) -> None:
        call.connection = connection
        request = call.request
        if self._preserves_host and request.host:
            host = request.host
        else:
            host = call.target.authority if self._host is None else self._host
        connection.send(call, upstream_head(request, self.forwarding, host), now)

    async def _open_for(self, call: Call) -> None:
        """What waits for a connection is a task: opening has a deadline."""
        try:
            connection = await self.pool.connect(call.target)
        except (OSError, TimeoutError, Overloaded) as error:
            call.opening = None
            self.failed(call, error)
            return
        call.opening = None
        self._send(call, connection, self._time())

    def inherit(self, previous: Upstream) -> None:
        """Go on with what an upstream of this name, whose options were others, knows of the targets that are still
        there. Both serve for a while.
        """
        self._balancer.inherit(previous._balancer)

    def start(self) -> None:
        """Begin to look at deadlines."""
        self._background.every(SWEEP_SECONDS, self._sweep, f"deadlines of {self.name}")

    def close(self) -> None:
        """Close idle connections now and the others as their calls end."""
        self.pool.close()

    async def stop(self) -> None:
        """Close all connections, whatever is on its way, and end what runs in this upstream's background."""
        self.pool.close()
        for connection in list(self.pool.connections):
            connection.abort()
        await self._background.stop()
        for part in (self._active, self._idle, self._waiting):
            part.set(0.0)

    async def _open(self, target: Target) -> Connection:
        async with timeout(self._timeouts.connect):
            _, connection = await get_running_loop().create_connection(
                lambda: Connection(
                    target,
                    max_head=self.options.max_response_head,
                    first_byte=self._timeouts.first_byte,
                    idle=self._timeouts.idle,
                    background=self._background,
                    on_idle=self.pool.release,
                    on_closed=self.pool.discard,
                ),
                target.host,
                target.port,
            )
        return connection

    def _sweep(self) -> None:
        pool = self.pool
        pool.sweep(get_running_loop().time())
        idle = pool.idle
        self._idle.set(idle)
        self._active.set(len(pool.connections) - idle)
        self._waiting.set(pool.waiting)

    def _count_failure(self, target: Target, reason: str, error: Exception) -> None:
        self._failures.labels(self.name, reason).inc()
        log.warning("upstream %s, target %s: %s", self.name, target.address, str(error) or type(error).__name__)


def _because(problem: Problem, cause: Exception) -> Problem:
    problem.__cause__ = cause
    return problem
