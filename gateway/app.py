"""App: the composition root of an edge process. Builds everything from the configuration, serves, drains, stops."""

from __future__ import annotations

import logging
from asyncio import gather
from collections.abc import Iterable
from socket import socket

from gateway.background import Background
from gateway.chain import Chain
from gateway.clock import Clock
from gateway.config import GatewayConfig
from gateway.consumers import Consumers
from gateway.delivery import Delivery
from gateway.exchange import Request, Response
from gateway.forwarding import Forwarding
from gateway.listener import Listener
from gateway.log import LineSink
from gateway.metering.usage import Usage
from gateway.metrics import Metrics
from gateway.plugin import AnyPlugin
from gateway.plugin_loader import PluginSpec
from gateway.route import Route, Unmatched
from gateway.router import Router
from gateway.services import Services
from gateway.traffic import Traffic
from gateway.upstream.upstream import Upstream

log = logging.getLogger(__name__)


class Edge:
    """One process's share of the gateway: listeners, routes, upstreams, and the usage it writes down."""

    def __init__(
        self, config: GatewayConfig, usage: Usage, access_log: LineSink, *, metrics: Metrics, clock: Clock
    ) -> None:
        self._config = config
        self._background = Background()
        self._usage = usage
        self._metrics = metrics
        self._clock = clock
        self._forwarding = Forwarding(config.trusted_proxies)
        self._upstreams = {
            name: Upstream(name, options, forwarding=self._forwarding, background=self._background, metrics=metrics)
            for name, options in config.upstreams.items()
        }
        self._services = Services(
            clock=clock,
            metrics=metrics,
            background=self._background,
            consumers=Consumers(config.consumers),
            journal=usage.journal,
            access_log=access_log,
            forward=self._forward,
        )
        self._plugins: list[AnyPlugin] = []
        self._listeners: list[Listener] = []

    async def start(self, sockets: Iterable[socket]) -> None:
        """Serve on these sockets, one for each listener of the configuration, in its order."""
        routes = [
            Route(
                options, self._chain(self._config.plugins_of(options)), self._upstreams[options.upstream], self._clock
            )
            for options in self._config.routes
        ]
        unmatched = Unmatched(self._chain(self._config.plugins_of(None)))
        delivery = Delivery(Router(routes), unmatched, traffic=Traffic(self._metrics), clock=self._clock)
        for plugin in self._plugins:
            await plugin.start()
        for upstream in self._upstreams.values():
            upstream.start()
        for options, sock in zip(self._config.listeners, sockets, strict=True):
            listener = Listener(
                options, delivery.serve, forwarding=self._forwarding, clock=self._clock, metrics=self._metrics
            )
            await listener.start(sock, self._background)
            self._listeners.append(listener)

    async def stop(self, deadline_seconds: float) -> None:
        """Stop accepting, finish what is in flight within the deadline, then stop everything in reverse order."""
        await gather(*[listener.drain(deadline_seconds) for listener in self._listeners])
        for plugin in reversed(self._plugins):
            await plugin.stop()
        for upstream in self._upstreams.values():
            upstream.close()
        await self._background.stop()

    def _chain(self, specs: Iterable[PluginSpec]) -> Chain:
        plugins = [spec.plugin(spec.config, self._services) for spec in specs]
        self._plugins.extend(plugins)
        return Chain(plugins)

    async def _forward(self, request: Request, upstream: str) -> Response:
        return await self._upstreams[upstream].call(request)
