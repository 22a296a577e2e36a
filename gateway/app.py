"""App: the composition root of an edge process. Builds everything from the configuration, serves, drains, stops."""

from __future__ import annotations

import gc
from asyncio import gather, get_running_loop
from collections.abc import Iterable
from pathlib import Path
from socket import socket
from typing import Final

from gateway.background import Background
from gateway.chain import Chain
from gateway.clock import Clock
from gateway.config import GatewayConfig
from gateway.consumers import Consumers
from gateway.control_pipe import ControlPipe, Drain, Failed, Ready
from gateway.delivery import Delivery
from gateway.exchange import Request, Response
from gateway.fetch import Fetch
from gateway.forwarding import Forwarding
from gateway.https_redirect import HttpsRedirect
from gateway.listener import Listener, ListenerOptions
from gateway.log import LineSink
from gateway.metering.directory import JournalUnusable
from gateway.metering.usage import Usage
from gateway.metrics import Metrics
from gateway.plugin import AnyPlugin
from gateway.plugin_loader import PluginSpec
from gateway.route import Route, Unmatched
from gateway.router import Router
from gateway.services import Services
from gateway.spans import ExportOptions, SpanSink
from gateway.stores.address import redis_url
from gateway.stores.redis import Redis
from gateway.tls.certificate import Unusable
from gateway.tls.server import ServerTls
from gateway.traffic import Traffic
from gateway.upstream.call import response_of
from gateway.upstream.replay import ReplayMemory
from gateway.upstream.upstream import Upstream
from gateway.vitals import watch

_FLUSH_SECONDS: Final = 2.0
"""What sending the last usage may take, though requests used up the time to drain."""
_SPANS_SECONDS: Final = 1.0
"""What sending the last spans may take."""
_COLLECT: Final = (50_000, 20, 100)
"""Allocations between garbage collections, in three generations: requests leave no cycles behind."""


class Edge:
    """One process's share of the gateway: listeners, routes, upstreams, and the usage it writes down."""

    def __init__(
        self,
        config: GatewayConfig,
        usage: Usage,
        access_log: LineSink,
        *,
        redis: Redis,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        """`redis` is one whose deadline suits requests that wait for it."""
        self._config = config
        self._background = Background()
        self._usage = usage
        self._metrics = metrics
        self._clock = clock
        self._forwarding = Forwarding(config.trusted_proxies)
        self._fetch = Fetch()
        memory = ReplayMemory(metrics)
        self._upstreams = {
            name: Upstream(
                name,
                options,
                forwarding=self._forwarding,
                fetch=self._fetch,
                memory=memory,
                background=self._background,
                metrics=metrics,
            )
            for name, options in config.upstreams.items()
        }
        self._services = Services(
            clock=clock,
            metrics=metrics,
            background=self._background,
            consumers=Consumers(config.consumers),
            journal=usage.journal,
            redis=redis,
            access_log=access_log,
            forward=self._forward,
            spans=self._span_sink,
        )
        self._spans: list[SpanSink] = []
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
            await upstream.start()
        for sink in self._spans:
            sink.start(self._background)
        for options, sock in zip(self._config.listeners, sockets, strict=True):
            listener = self._listener(options, delivery)
            await listener.start(sock, self._background)
            self._listeners.append(listener)

    async def stop(self, deadline_seconds: float) -> None:
        """Stop accepting, finish what is in flight within the deadline, then stop everything in reverse order."""
        await gather(*[listener.drain(deadline_seconds) for listener in self._listeners])
        for plugin in reversed(self._plugins):
            await plugin.stop()
        await gather(*[sink.stop(_SPANS_SECONDS) for sink in self._spans])
        for upstream in self._upstreams.values():
            upstream.close()
        await self._background.stop()
        await self._fetch.close()

    def _listener(self, options: ListenerOptions, delivery: Delivery) -> Listener:
        begin, tls = delivery.begin, None
        if options.https_port is not None:
            begin = HttpsRedirect(options.https_port, delivery).begin
        if options.tls is not None:
            tls = ServerTls(options.tls, options.bind, clock=self._clock, metrics=self._metrics)
        return Listener(options, begin, forwarding=self._forwarding, clock=self._clock, metrics=self._metrics, tls=tls)

    def _chain(self, specs: Iterable[PluginSpec]) -> Chain:
        plugins = [spec.plugin(spec.config, self._services) for spec in specs]
        self._plugins.extend(plugins)
        return Chain(plugins)

    async def _forward(self, request: Request, upstream: str) -> Response:
        return await response_of(lambda caller: self._upstreams[upstream].call(request, caller))

    def _span_sink(self, options: ExportOptions) -> SpanSink:
        for sink in self._spans:
            if sink.options == options:
                return sink
        sink = SpanSink(options, forward=self._forward, metrics=self._metrics)
        self._spans.append(sink)
        return sink


async def serve(
    config: GatewayConfig,
    usage: Usage,
    access_log: LineSink,
    sockets: Iterable[socket],
    pipe: ControlPipe,
    *,
    redis: Redis,
    metrics: Metrics,
) -> None:
    """Serve until the supervisor says drain, or is gone; then finish what is in flight and hand over the journal."""
    edge = Edge(config, usage, access_log, redis=redis, metrics=metrics, clock=Clock())
    vitals = Background()
    watch(vitals, metrics)
    await usage.start()
    await edge.start(sockets)
    # What was made so far lives as long as the process: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT)
    pipe.say(Ready())
    message = await pipe.hear()
    deadline = message.deadline if isinstance(message, Drain) else config.drain_timeout
    give_up_at = get_running_loop().time() + deadline
    await edge.stop(deadline)
    await usage.stop(max(_FLUSH_SECONDS, give_up_at - get_running_loop().time()))
    await vitals.stop()


async def run(
    config: GatewayConfig, *, sockets: Iterable[socket], control: int, metrics_path: Path | None, log_to: int
) -> int:
    """The body of an edge process: `control` is the descriptor of its pipe, `log_to` that of the access log."""
    metrics = Metrics(metrics_path)
    dropped = metrics.counter("tallygate_access_log_dropped_total", "Access log lines that nobody took.")
    pipe = await ControlPipe.of(control)
    redis = Redis(redis_url(config.stores))
    redis_of_requests = Redis(redis_url(config.stores), deadline=config.stores.deadline)
    access_log = LineSink(log_to, dropped=dropped.inc)
    try:
        usage = Usage(config.usage, redis=redis, clock=Clock(), metrics=metrics)
        await serve(config, usage, access_log, sockets, pipe, redis=redis_of_requests, metrics=metrics)
    except (JournalUnusable, Unusable) as error:
        pipe.say(Failed(str(error)))
        return 1
    finally:
        access_log.close()
        await redis_of_requests.close()
        await redis.close()
        await pipe.close()
    return 0
