"""Destinations: what stands behind each route of a runtime, put together of what its options name."""

from __future__ import annotations

from asyncio import get_running_loop
from collections.abc import Callable, Iterable, Mapping
from random import Random

from gateway.background import Background
from gateway.config.plugin_loader import PluginSpec
from gateway.exchange import Request
from gateway.metrics import Metrics
from gateway.options import Options
from gateway.route import Nowhere, RouteOptions
from gateway.upstream.breaker import CircuitBreakerOptions
from gateway.upstream.bulkhead import Bulkhead
from gateway.upstream.circuits import Circuits
from gateway.upstream.destination import Destination
from gateway.upstream.fallback import Fallback
from gateway.upstream.mirror import Mirror
from gateway.upstream.replay import ReplayMemory
from gateway.upstream.split import Split
from gateway.upstream.upstream import SWEEP_SECONDS, Upstream


class Destinations:
    """Those of one runtime. What a route has of its own, places and circuits, goes on by the route's name."""

    def __init__(
        self, upstreams: Mapping[str, Upstream], *, memory: ReplayMemory, background: Background, metrics: Metrics
    ) -> None:
        self._upstreams = upstreams
        self._memory = memory
        self._background = background
        self._metrics = metrics
        self._random = Random()  # noqa: S311 - spreads load, guards nothing
        self._bulkheads: dict[str, Bulkhead] = {}
        self._circuits: dict[tuple[str, str], Circuits] = {}  # by the names of route and upstream

    def make(
        self, options: RouteOptions, specs: Iterable[PluginSpec], previous: Destinations | None
    ) -> Upstream | Destination | Nowhere:
        """What is behind a route with these plugins; the upstream itself if there is no more to it."""
        if not options.shares:
            return Nowhere()
        of_plugins: list[Options] = [spec.config for spec in specs]
        # A plugin whose options are those of circuits has no hooks; they are meant for the route's upstreams.
        circuit = next((block for block in of_plugins if isinstance(block, CircuitBreakerOptions)), None)
        answering, replay_buffer, fallback, mirror = list(options.shares), 0, options.fallback, options.mirror
        if fallback is not None and fallback.upstream is not None:
            answering.append(fallback.upstream)
            replay_buffer = fallback.replay_buffer
        if mirror is not None:
            replay_buffer = max(replay_buffer, mirror.replay_buffer)
        upstreams = {name: self._upstream(name, options.name, circuit, previous) for name in answering}
        if options.upstream is not None and not (fallback or mirror or options.bulkhead):
            return upstreams[options.upstream]
        return Destination(
            upstreams,
            self._picker(options),
            fallback=Fallback(fallback, options.name, self._metrics) if fallback is not None else None,
            mirror=self._mirror(options),
            bulkhead=self._bulkhead(options, previous),
            memory=self._memory,
            replay_buffer=replay_buffer,
        )

    def start(self) -> None:
        """Begin to look after those who wait for a place."""
        if self._bulkheads:
            self._background.every(SWEEP_SECONDS, self.look, "bulkheads of routes")

    def look(self) -> None:
        """Refuse those who have waited too long for a place, and say how many have one."""
        now = get_running_loop().time()
        for bulkhead in self._bulkheads.values():
            bulkhead.look(now)

    def _picker(self, options: RouteOptions) -> Callable[[Request], str]:
        if options.split:
            return Split(options.split, options.split_by, self._random).pick
        (only,) = options.shares
        return lambda _: only

    def _mirror(self, options: RouteOptions) -> Mirror | None:
        if options.mirror is None:
            return None
        return Mirror(
            options.mirror,
            options.name,
            self._upstreams[options.mirror.upstream],
            background=self._background,
            metrics=self._metrics,
            random=self._random,
        )

    # Each the same as before, if its options are

    def _bulkhead(self, options: RouteOptions, previous: Destinations | None) -> Bulkhead | None:
        if options.bulkhead is None:
            return None
        bulkhead = previous._bulkheads.get(options.name) if previous is not None else None
        if bulkhead is None or bulkhead.options != options.bulkhead:
            bulkhead = Bulkhead(options.bulkhead, "route", options.name, self._metrics)
        self._bulkheads[options.name] = bulkhead
        return bulkhead

    def _upstream(
        self, name: str, route: str, circuit: CircuitBreakerOptions | None, previous: Destinations | None
    ) -> Upstream:
        upstream = self._upstreams[name]
        if circuit is None:
            return upstream
        circuits = previous._circuits.get((route, name)) if previous is not None else None
        if circuits is None or circuits.options != circuit:
            circuits = Circuits(circuit, name, self._metrics, route=route)
        self._circuits[route, name] = circuits
        return upstream.behind(circuits)
