"""Pool: the connections of one process to one upstream, and the bounded queue of calls that wait for one.

All state changes are in plain functions that do no I/O; the coroutine around them opens connections.
"""

from __future__ import annotations

from asyncio import CancelledError, Future, get_running_loop, timeout_at
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from gateway.metrics import GaugePart, Metrics
from gateway.problem import Overloaded
from gateway.upstream.connection import Connection
from gateway.upstream.target import Target

Place: TypeAlias = Future[Connection | None]
"""What a call waits for: a connection that is handed to it, or None for the room to open one."""


class Pool:
    """At most `limit` connections to all targets together, and at most `max_waiting` calls in the queue for one.

    `repr(pool)` says how it is doing: `Pool(2 active, 1 idle, 0 waiting)`.
    """

    def __init__(
        self,
        open_connection: Callable[[Target], Awaitable[Connection]],
        *,
        limit: int,
        max_waiting: int,
        wait_timeout: float,
        keepalive_timeout: float,
    ) -> None:
        self._open = open_connection
        self._limit = limit
        self._max_waiting = max_waiting
        self._wait_timeout = wait_timeout
        self._keepalive_timeout = keepalive_timeout
        self._idle: defaultdict[Target, list[Connection]] = defaultdict(list)
        self._waiters: deque[tuple[Target, Place]] = deque()
        self._promised = 0  # places given to calls that waited and have not yet come to take them
        self._closed = False
        self.connections: set[Connection] = set()
        self._opening = 0

    def __repr__(self) -> str:
        idle = self.idle
        return f"Pool({len(self.connections) - idle} active, {idle} idle, {len(self._waiters)} waiting)"

    @property
    def idle(self) -> int:
        """Connections that wait for a call."""
        return sum(map(len, self._idle.values()))

    @property
    def waiting(self) -> int:
        """Calls that wait for a connection."""
        return len(self._waiters)

    def take(self, target: Target) -> Connection | None:
        """The idle connection to this target that was used last, or None."""
        idle = self._idle[target]
        while idle:
            connection = idle.pop()
            if connection.usable:
                return connection
        return None

    async def connect(self, target: Target) -> Connection:
        """A new connection to this target, as soon as there is room for one; or an idle one if that comes first.

        Raises Overloaded if the queue is full or takes too long, and OSError or TimeoutError from the opening.
        """
        give_up_at = get_running_loop().time() + self._wait_timeout
        while self._waiters or not self._has_room():
            connection = await self._wait(target, give_up_at)
            if connection is None:
                self._promised -= 1
                break
            if connection.usable:  # else it was lost on its way to us
                return connection
        self._opening += 1
        try:
            connection = await self._open(target)
        except BaseException:
            self._opening -= 1
            self._wake()
            raise
        self._opening -= 1
        self.connections.add(connection)
        return connection

    def release(self, connection: Connection) -> None:
        """A call ended cleanly; the connection waits for the next one."""
        if self._closed:
            connection.abort()
            return
        self._idle[connection.target].append(connection)
        if self._waiters:
            self._wake()

    def discard(self, connection: Connection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        idle = self._idle.get(connection.target)
        if idle and connection in idle:
            idle.remove(connection)
        if self._waiters:
            self._wake()

    def sweep(self, now: float) -> None:
        """Fail calls whose deadline has passed and close connections that were idle for too long."""
        for connection in list(self.connections):
            connection.expire(now)
        for idle in self._idle.values():
            while idle and now - idle[0].idle_since > self._keepalive_timeout:
                idle.pop(0).abort()

    def close(self) -> None:
        """Close idle connections now and the others as their calls end."""
        self._closed = True
        for idle in self._idle.values():
            while idle:
                idle.pop().abort()

    def _has_room(self) -> bool:
        """Whether another connection may be opened; an idle one to another target gives up its place if need be."""
        if len(self.connections) + self._opening + self._promised < self._limit:
            return True
        oldest = min((idle[0] for idle in self._idle.values() if idle), key=lambda c: c.idle_since, default=None)
        if oldest is None:
            return False
        self._idle[oldest.target].remove(oldest)
        self.connections.discard(oldest)
        oldest.abort()
        return True

    async def _wait(self, target: Target, give_up_at: float) -> Connection | None:
        """In its turn, an idle connection to this target; or None: there is room, promised to whoever waited."""
        if len(self._waiters) >= self._max_waiting:
            raise Overloaded("All connections to the upstream are busy.", headers={"retry-after": "1"})
        place: Place = get_running_loop().create_future()
        self._waiters.append((target, place))
        try:
            async with timeout_at(give_up_at):
                return await place
        except (TimeoutError, CancelledError) as over:
            if place.done() and not place.cancelled():
                self._take_back(place.result())
            elif (target, place) in self._waiters:
                self._waiters.remove((target, place))
            if isinstance(over, TimeoutError):
                late = "No connection to the upstream became free in time."
                raise Overloaded(late, headers={"retry-after": "1"}) from None
            raise

    def _take_back(self, given: Connection | None) -> None:
        """It was given in the moment in which nobody waited any more."""
        if given is None:
            self._promised -= 1
            self._wake()
        elif given.usable:
            self.release(given)

    def _wake(self) -> None:
        """Give what is free to the calls that have waited longest; while one waits, nothing is left over."""
        while self._waiters:
            target, place = self._waiters[0]
            connection = None
            if not place.done():
                connection = self.take(target)
                if connection is None:
                    if not self._has_room():
                        return
                    self._promised += 1
                place.set_result(connection)
            self._waiters.popleft()


class PoolGauges:
    """How a pool is doing, as metrics."""

    def __init__(self, pool: Pool, upstream: str, metrics: Metrics) -> None:
        self._pool = pool
        connections = metrics.gauge(
            "tallygate_upstream_connections", "Connections to the upstream's targets, by state.", ("upstream", "state")
        )
        self._active = GaugePart(connections.labels(upstream, "active"))
        self._idle = GaugePart(connections.labels(upstream, "idle"))
        waiting = metrics.gauge("tallygate_upstream_waiting", "Calls that wait for a connection.", ("upstream",))
        self._waiting = GaugePart(waiting.labels(upstream))

    def look(self) -> None:
        """Say how it is now."""
        idle = self._pool.idle
        self._idle.set(idle)
        self._active.set(len(self._pool.connections) - idle)
        self._waiting.set(self._pool.waiting)

    def leave(self) -> None:
        """The pool is no more."""
        for part in (self._active, self._idle, self._waiting):
            part.set(0.0)
