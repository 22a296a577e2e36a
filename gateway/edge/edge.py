"""Edge: one process's share of the gateway: its listeners, and the runtime that serves what arrives on them.

It goes over from one runtime to the next between two requests. What the earlier one began it also ends, and is retired
until nothing of that is left.
"""

from __future__ import annotations

import gc
import logging
import os
from asyncio import gather, get_running_loop
from collections.abc import Callable, Iterator, Sequence
from socket import socket
from typing import Final, NamedTuple

from gateway.background import Background
from gateway.config.configuration import GatewayConfig
from gateway.downstream.client_connection import ClientConnection
from gateway.downstream.delivery import Delivery
from gateway.downstream.https_redirect import HttpsRedirect
from gateway.downstream.listener import Listener, ListenerOptions
from gateway.downstream.serving import Client, Serving
from gateway.edge.lasting import Lasting
from gateway.edge.runtime import Runtime
from gateway.edge.target_gauges import TargetGauges
from gateway.exchange import Exchange
from gateway.upstream.report import UpstreamReport, report_of

LOOK_SECONDS: Final = 0.1
"""How often is looked whether what was replaced has come to its end; at no cost per request."""
SHOW_SECONDS: Final = 2.0
"""How often the state of targets is brought to the metrics."""

_log: Final = logging.getLogger(__name__)


class _Successor(NamedTuple):
    """What can be gone over to at any moment."""

    generation: int
    fingerprint: str
    runtime: Runtime
    sockets: Sequence[socket]


class Edge:
    """`prepare` and `commit` as often as there is a configuration, the first one included; `stop` once."""

    def __init__(self, lasting: Lasting) -> None:
        self._lasting = lasting
        self._background = Background()
        self._runtime: Runtime | None = None
        self._successor: _Successor | None = None
        self._retired: list[Runtime] = []
        self._listeners: dict[int, Listener] = {}  # by the inode of its socket
        self._leaving: list[Listener] = []
        self._garbage = False
        self._background.every(LOOK_SECONDS, self._look, "retired configurations")
        self._background.measure_lag(self._note_lag)
        metrics = lasting.metrics
        gauges = TargetGauges(metrics)
        self._background.every(SHOW_SECONDS, lambda: gauges.show(self.report()), "gauges of targets")
        self._generation = metrics.gauge(
            "tallygate_config_generation", "The configuration that is served with; the number grows with each reload."
        )
        self._fingerprint = metrics.gauge(
            "tallygate_config_fingerprint", "A number that is the same where the same configuration is served with."
        )
        self._retired_now = metrics.gauge(
            "tallygate_config_retired", "Earlier configurations that some requests are still served with."
        )
        self._cut = metrics.counter(
            "tallygate_config_retired_cut_total", "Earlier configurations whose last requests were broken off."
        )
        self._share = metrics.gauge("tallygate_shedding_share", "Share of requests refused because of overload.")

    @property
    def drain_timeout(self) -> float:
        """Seconds that requests in flight have when nobody says otherwise."""
        return self._runtime.config.drain_timeout if self._runtime is not None else 0.0

    async def prepare(
        self, generation: int, config: GatewayConfig, fingerprint: str, sockets: Sequence[socket]
    ) -> None:
        """Build all that is needed to serve with this configuration, in place of what was prepared before.

        `sockets` are bound, one for each listener, in their order; they are the caller's until this succeeds.
        Raises BuildFailed.
        """
        await self.abort()
        runtime = await Runtime.build(config, self._lasting, self._runtime)
        self._successor = _Successor(generation, fingerprint, runtime, sockets)

    async def abort(self) -> None:
        """Forget what was prepared, if anything was."""
        successor, self._successor = self._successor, None
        if successor is not None:
            for sock in successor.sockets:
                sock.close()
            await successor.runtime.stop(self._living)

    async def commit(self, generation: int) -> bool:
        """Serve every request that begins from now on with what was prepared; False if that is not this generation."""
        successor = self._successor
        if successor is None or successor.generation != generation:
            return False
        self._successor = None
        before, self._runtime = self._runtime, successor.runtime
        self._generation.set(generation)
        self._fingerprint.set(int(successor.fingerprint, 16))
        await self._listen(successor.runtime, successor.sockets)
        if before is not None:
            self._retire(before)
        return True

    def report(self) -> list[UpstreamReport]:
        """What is known of each upstream that is served with now, and of the calls to it that began before a reload."""
        if self._runtime is None:
            return []
        reports = []
        for name, upstream in self._runtime.upstreams.items():
            earlier = {runtime.upstreams.get(name, upstream) for runtime in self._retired} - {upstream}
            reports.append(report_of(upstream, earlier))
        return reports

    async def stop(self, deadline_seconds: float) -> None:
        """Stop accepting, finish what is in flight within the deadline, then stop everything in reverse order."""
        await self.abort()
        listeners = [*self._listeners.values(), *self._leaving]
        await gather(*[listener.drain(deadline_seconds) for listener in listeners])
        for listener in listeners:
            await listener.stop()
        for runtime in self._living():
            await runtime.stop(list)
        await self._background.stop()

    def _note_lag(self, seconds: float) -> None:
        shedding = self._runtime.shedding if self._runtime is not None else None
        if shedding is not None:
            shedding.observe(seconds, get_running_loop().time())
        self._share.set(shedding.share if shedding is not None else 0.0)

    async def _listen(self, runtime: Runtime, sockets: Sequence[socket]) -> None:
        """The listener of a socket that we know goes on; others begin; those whose socket is not among these end."""
        leaving, self._listeners = self._listeners, {}
        forwarding = runtime.forwarding
        beginning: list[tuple[Listener, socket]] = []
        for options, tls, sock in zip(runtime.config.listeners, runtime.tls, sockets, strict=True):
            begin = _begin(options, runtime.delivery)
            inode = os.fstat(sock.fileno()).st_ino
            listener = leaving.pop(inode, None)
            if listener is not None:
                listener.change(options, begin, forwarding, tls)
                sock.close()
            else:
                clock, metrics = self._lasting.clock, self._lasting.metrics
                listener = Listener(options, begin, forwarding=forwarding, clock=clock, metrics=metrics, tls=tls)
                beginning.append((listener, sock))
            self._listeners[inode] = listener
        for listener in leaving.values():
            listener.close()
        self._leaving += leaving.values()
        for listener, sock in beginning:
            await listener.start(sock, Background())

    # What was replaced

    def _living(self) -> list[Runtime]:
        living = [*self._retired, self._runtime, self._successor.runtime if self._successor is not None else None]
        return [runtime for runtime in living if runtime is not None]

    def _retire(self, runtime: Runtime) -> None:
        self._retired.append(runtime)
        self._end_unused()
        most = self._runtime.config.reload.max_retired if self._runtime is not None else 0
        for oldest in self._retired[: max(0, len(self._retired) - most)]:
            self._cut.inc()
            _log.warning("more than %d earlier configurations are served with: the oldest one is cut", most)
            for connection in list(self._in_flight()):
                if _delivery_of(connection) is oldest.delivery and not connection.leave("it lasted for too long"):
                    connection.cancel()

    def _look(self) -> None:
        for listener in [listener for listener in self._leaving if listener.empty]:
            self._leaving.remove(listener)
            _ = self._background.start(listener.stop(), "the end of a listener")
        if self._garbage:
            self._garbage = False
            gc.collect()  # a runtime's parts know each other, and what is old enough is hardly ever looked at
        if self._retired:
            self._end_unused()
        self._retired_now.set(len(self._retired))

    def _end_unused(self) -> None:
        used = {_delivery_of(connection) for connection in self._in_flight()}
        for runtime in [runtime for runtime in self._retired if runtime.delivery not in used]:
            self._retired.remove(runtime)
            _ = self._background.start(self._end(runtime), "the end of a configuration")

    async def _end(self, runtime: Runtime) -> None:
        await runtime.stop(self._living)
        self._garbage = True

    def _in_flight(self) -> Iterator[ClientConnection]:
        for listener in (*self._listeners.values(), *self._leaving):
            yield from listener.in_flight()


def _begin(options: ListenerOptions, delivery: Delivery) -> Callable[[Exchange, Client], Serving]:
    """What a listener hands its requests to."""
    return delivery.begin if options.https_port is None else HttpsRedirect(options.https_port, delivery).begin


def _delivery_of(connection: ClientConnection) -> Delivery | None:
    return connection.serving.delivery if connection.serving is not None else None
