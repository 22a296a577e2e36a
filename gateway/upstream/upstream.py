"""Upstream: a named service behind the gateway; picks a target, calls it, minds the deadlines."""

from __future__ import annotations

import logging
from asyncio import get_running_loop, timeout
from copy import copy
from random import Random
from typing import TYPE_CHECKING, Final

from gateway.body import Body
from gateway.clock import Clock
from gateway.exchange import Request
from gateway.forwarding import Forwarding, upstream_head
from gateway.http1.grammar import IDEMPOTENT
from gateway.http1.response_head import Malformed
from gateway.problem import BadGateway, GatewayTimeout, Overloaded, Problem
from gateway.tls.client import ClientTls, UpstreamTlsOptions
from gateway.upstream.attempts import Attempts
from gateway.upstream.bulkhead import Bulkhead
from gateway.upstream.call import Call, Caller, Underway
from gateway.upstream.circuits import Circuits
from gateway.upstream.connection import Connection, Lost, TimedOut
from gateway.upstream.options import UpstreamOptions
from gateway.upstream.pool import Pool, PoolGauges
from gateway.upstream.replay import ReplayableBody, ReplayMemory
from gateway.upstream.retry import Retry
from gateway.upstream.target import Target, TargetStates
from gateway.upstream.targets import Targets

if TYPE_CHECKING:
    from gateway.background import Background
    from gateway.fetch import Fetch
    from gateway.metrics import Metrics

log = logging.getLogger(__name__)

SWEEP_SECONDS: Final = 0.1
"""How often deadlines are looked at; they are kept to within this, at no cost per request."""


class Upstream:
    """A named service. `call` is the whole of what the rest of the gateway knows about it."""

    def __init__(
        self,
        name: str,
        options: UpstreamOptions,
        *,
        forwarding: Forwarding,
        fetch: Fetch,
        memory: ReplayMemory,
        states: TargetStates,
        background: Background,
        metrics: Metrics,
    ) -> None:
        """`background` is this upstream's own; `memory` and `states` are the process's."""
        self.name = name
        self.options = options
        self._timeouts = options.timeouts
        self.loop = get_running_loop()
        self.time = self.loop.time
        self.total = options.timeouts.total
        self._preserves_host = options.host == "preserve"
        self._host = None if options.host in ("preserve", "target") else options.host
        self.forwarding = forwarding
        self._background = background
        self._tls: ClientTls | None = None
        if options.secure:
            self._tls = ClientTls(options.tls or UpstreamTlsOptions(), name, clock=Clock(), metrics=metrics)
        self._memory = memory
        self.targets = Targets(
            name, options, fetch=fetch, tls=self._tls, states=states, background=background, metrics=metrics
        )
        retry, circuit = options.retry, options.circuit_breaker
        self.retry = Retry(retry, name, metrics, Random()) if retry is not None else None  # noqa: S311 - spreads load
        self.circuits = Circuits(circuit, name, metrics) if circuit is not None else None
        self.bulkhead = Bulkhead(options.bulkhead, "upstream", name, metrics) if options.bulkhead is not None else None
        self._simple = not (
            self.retry or self.circuits or self.bulkhead or self.targets.wants_feedback or self.targets.sticky
        )
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
        self._gauges = PoolGauges(self.pool, name, metrics)

    def call(self, request: Request, caller: Caller) -> Underway:
        """Send the request to a target; the caller hears of the response once its head is there."""
        now = self.time()
        if not self._simple:
            attempts = Attempts(self, request, request.body, caller)
            attempts.begin(now)
            return attempts
        target = self.targets.pick(request, now)
        if target is None:
            target = self.targets.all[0]  # no health without feedback: there is always one
        call = Call(self, request, caller, target, now + self.total, request.body)
        self.attempt(call, now)
        return call

    def attempt(self, call: Call, now: float) -> None:
        """Send a call on a connection that is idle, or on the next that can be had."""
        connection = self.pool.take(call.target)
        if connection is None:
            call.opening = self._background.start(self._open_for(call), "connection")
        else:
            self._send(call, connection, now)

    def behind(self, circuits: Circuits) -> Upstream:
        """This upstream, with its targets, connections and all, but behind these circuits and not its own."""
        upstream = copy(self)
        upstream.circuits, upstream._simple = circuits, False
        return upstream

    def replayable(self, body: Body | ReplayableBody) -> Body | ReplayableBody:
        """The body in a form that can be sent again, where retries may want that and it is not in one yet."""
        options = self.options.retry
        if options is None or body.length == 0 or isinstance(body, ReplayableBody):
            return body
        return ReplayableBody(body, options.replay_buffer, self._memory)

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
                and call.body.rewind()
            ):
                # A connection kept alive had gone stale: not this call's failure (RFC 9110 §9.2.2).
                self.attempt(call, self.time())
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
        self._send(call, connection, self.time())

    def inherit(self, previous: Upstream) -> None:
        """Go on where the upstream of this name is whose options were others; it goes on as well. To be called first.

        What is known of targets is theirs and not lost; what was learned under options that are others now is.
        """
        options, before = self.options, previous.options
        self.targets.inherit(previous.targets)
        if options.retry == before.retry:
            self.retry = previous.retry
        if options.bulkhead == before.bulkhead:
            self.bulkhead = previous.bulkhead
        if options.circuit_breaker == before.circuit_breaker:
            self.circuits = previous.circuits

    async def start(self) -> None:
        """Find the targets, and begin to look at deadlines. Raises Unusable if a file of its TLS is."""
        if self._tls is not None:
            await self._tls.start(self._background)
        await self.targets.start()
        self._background.every(SWEEP_SECONDS, self._sweep, f"deadlines of {self.name}")

    def close(self) -> None:
        """Close idle connections now and the others as their calls end."""
        self.pool.close()

    async def stop(self) -> None:
        """Close all connections, whatever is on its way, and end what runs in the background. Idempotent."""
        self.pool.close()
        for connection in list(self.pool.connections):
            connection.abort()
        await self._background.stop()
        if self._tls is not None:
            self._tls.leave()
        self.targets.leave()
        if self.bulkhead is not None:
            self.bulkhead.look(self.time())
        self._gauges.leave()

    async def _open(self, target: Target) -> Connection:
        connection = Connection(
            target,
            max_head=self.options.max_response_head,
            first_byte=self._timeouts.first_byte,
            idle=self._timeouts.idle,
            exempt_streams=self._timeouts.exempt_streams,
            background=self._background,
            on_idle=self.pool.release,
            on_closed=self.pool.discard,
        )
        connect = get_running_loop().create_connection
        async with timeout(self._timeouts.connect):
            if self._tls is None or not target.secure:
                await connect(lambda: connection, target.host, target.port)
            else:
                stream = self._tls.stream(connection, target.server_name, target.address)
                await connect(lambda: stream, target.host, target.port)
                await stream.until_secured()
        return connection

    def _sweep(self) -> None:
        now = self.time()
        self.pool.sweep(now)
        if self.bulkhead is not None:
            self.bulkhead.look(now)
        self._gauges.look()

    def _count_failure(self, target: Target, reason: str, error: Exception) -> None:
        self._failures.labels(self.name, reason).inc()
        log.warning("upstream %s, target %s: %s", self.name, target.address, str(error) or type(error).__name__)


def _because(problem: Problem, cause: Exception) -> Problem:
    problem.__cause__ = cause
    return problem
