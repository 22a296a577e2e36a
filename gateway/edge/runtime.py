"""Runtime: everything of an edge process that is made from one configuration, but for the listeners.

A reload builds a new one beside the one that serves. What has not changed is the same object in both, and what has
changed goes on with the state that belongs to its name; so connections, counts and limits do not begin anew. The old
runtime ends the requests it began, and is stopped when it has none left.
"""

from __future__ import annotations

import logging
from asyncio import gather, sleep, timeout
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from random import Random
from typing import Final, NamedTuple

from gateway.background import Background
from gateway.chain import Chain
from gateway.config.configuration import GatewayConfig
from gateway.config.plugin_loader import PluginSpec
from gateway.consumers import Consumers
from gateway.directory.directory import Directory
from gateway.downstream.delivery import Delivery
from gateway.downstream.listener import ListenerOptions
from gateway.downstream.shedding import Shedding
from gateway.edge.destinations import Destinations
from gateway.edge.lasting import Lasting
from gateway.exchange import Request, Response
from gateway.forwarding import Forwarding
from gateway.log import redact
from gateway.metrics import Metrics
from gateway.plugin import AnyPlugin
from gateway.route import UNMATCHED, Route, Unmatched
from gateway.router import Router
from gateway.services import Services
from gateway.spans import SpanSinks
from gateway.tls.server import ServerTls
from gateway.upstream.call import response_of
from gateway.upstream.upstream import Upstream

STOP_SECONDS: Final = 5.0
"""What a plugin may take to stop."""
_SPANS_SECONDS: Final = 1.0
"""What sending the last spans may take."""

log: Final = logging.getLogger(__name__)


class BuildFailed(Exception):
    """A runtime cannot be built; the text says what stands in the way."""


class _Placed(NamedTuple):
    """A plugin in its place: the name of its route, UNMATCHED for what no route takes, and what the file says of it."""

    route: str
    spec: PluginSpec
    plugin: AnyPlugin

    def __str__(self) -> str:
        return f"plugin {self.spec.name} of route {self.route}"


class Runtime:
    """`delivery` serves the requests, `tls` is what each listener has of it. Made by `build`, ended by `stop`."""

    delivery: Delivery

    def __init__(self, config: GatewayConfig, lasting: Lasting, previous: Runtime | None) -> None:
        self.config = config
        self.forwarding = _forwarding(config, previous)
        self.consumers = _consumers(config, previous)
        self.upstreams: dict[str, Upstream] = {}
        self.shedding = _shedding(config, lasting.metrics, previous)
        self.tls: list[ServerTls | None] = []
        self._lasting = lasting
        self._background = Background()
        self._destinations = Destinations(
            self.upstreams, memory=lasting.memory, background=self._background, metrics=lasting.metrics
        )
        self._plugins: dict[tuple[str, str], _Placed] = {}
        self._started: list[_Placed] = []
        forward = _forwarder(self.upstreams)
        self._spans = SpanSinks(forward, lasting.metrics)
        self._services = Services(
            clock=lasting.clock,
            metrics=lasting.metrics,
            background=self._background,
            consumers=self.consumers,
            directory=Directory(self.consumers, lasting.published),
            decisions=lasting.decisions,
            journal=lasting.journal,
            redis=lasting.redis,
            workers=lasting.workers,
            access_log=lasting.access_log,
            forward=forward,
            spans=self._spans.to,
            fetch=lasting.fetch,
        )

    @classmethod
    async def build(cls, config: GatewayConfig, lasting: Lasting, previous: Runtime | None = None) -> Runtime:
        """One that can serve, beside the one that serves now. Raises BuildFailed, and leaves nothing behind then."""
        runtime = cls(config, lasting, previous)
        try:
            await runtime._make(previous)
            await runtime._start(previous)
        except BaseException:  # half built, or cancelled: what has started must stop
            await runtime.stop(lambda: [previous] if previous is not None else [])
            raise
        return runtime

    async def stop(self, others: Callable[[], Iterable[Runtime]]) -> None:
        """Nothing is served by it any more: stop its plugins, then those parts that no other one has by then."""
        for placed in reversed(self._started):
            try:
                async with timeout(STOP_SECONDS):
                    await placed.plugin.stop()
            except Exception:  # a plugin's: the others are to be stopped all the same
                log.exception("%s did not stop well", placed)
        await self._spans.stop(_SPANS_SECONDS)
        await self._background.stop()
        self._destinations.look()
        shared = {part for other in others() for part in other.parts}
        for part in self.parts:
            if part not in shared:
                await part.stop()
        self.upstreams.clear()
        self.tls.clear()

    @property
    def parts(self) -> list[Upstream | ServerTls]:
        """Those that may be the same in the next runtime."""
        return [*self.upstreams.values(), *filter(None, self.tls)]

    async def _make(self, previous: Runtime | None) -> None:
        """Every part, with room between two for the requests that the previous one serves."""
        config, clock = self.config, self._lasting.clock
        for name in config.upstreams:
            self.upstreams[name] = self._upstream(name, previous)
        self.tls += [self._server_tls(options, previous) for options in config.listeners]
        before = previous._destinations if previous is not None else None
        routes = []
        for options in config.routes:
            specs = config.plugins_of(options)
            chain = self._chain(options.name, specs, previous)
            with _named(f"route {options.name}"):
                behind = self._destinations.make(options, specs, before)
            routes.append(Route(options, chain, behind, clock))
            await sleep(0)
        unmatched = Unmatched(self._chain(UNMATCHED, config.plugins_of(None), previous))
        traffic, shedding = self._lasting.traffic, self.shedding
        self.delivery = Delivery(Router(routes), unmatched, traffic=traffic, clock=clock, shedding=shedding)

    async def _start(self, previous: Runtime | None) -> None:
        for placed in self._plugins.values():
            with _named(str(placed)):
                await placed.plugin.start()
            self._started.append(placed)
        before = set() if previous is None else set(previous.parts)
        beginning = [_begin(part) for part in self.parts if part not in before]
        for outcome in await gather(*beginning, return_exceptions=True):
            if outcome is not None:
                raise outcome
        self._destinations.start()
        self._spans.start(self._background)

    # Parts, each the same as before or the heir of what was in its place

    def _upstream(self, name: str, previous: Runtime | None) -> Upstream:
        before = previous.upstreams.get(name) if previous is not None else None
        options = self.config.upstreams[name]
        if before is not None and before.options == options and before.forwarding is self.forwarding:
            return before
        with _named(f"upstream {name}"):
            upstream = Upstream(
                name,
                options,
                forwarding=self.forwarding,
                fetch=self._lasting.fetch,
                memory=self._lasting.memory,
                states=self._lasting.states,
                background=Background(),  # of its own: it may outlive this runtime
                metrics=self._lasting.metrics,
            )
            if before is not None:
                upstream.inherit(before)
        return upstream

    def _server_tls(self, options: ListenerOptions, previous: Runtime | None) -> ServerTls | None:
        if options.tls is None:
            return None
        for tls in previous.tls if previous is not None else ():
            if tls is not None and (tls.bind, tls.options) == (options.bind, options.tls):
                return tls
        clock, metrics = self._lasting.clock, self._lasting.metrics
        return ServerTls(options.tls, options.bind, background=Background(), clock=clock, metrics=metrics)

    def _chain(self, route: str, specs: Iterable[PluginSpec], previous: Runtime | None) -> Chain:
        plugins = [self._plugin(route, spec, previous) for spec in specs]
        with _named(f"route {route}"):
            return Chain(plugins)

    def _plugin(self, route: str, spec: PluginSpec, previous: Runtime | None, within: str = "") -> AnyPlugin:
        """A plugin and, before it, those that its options list; they are told apart by their places `within` it."""
        name = within + spec.name
        parts = [self._plugin(route, part, previous, f"{name}[{place}].") for place, part in enumerate(spec.parts)]
        before = previous._plugins.get((route, name)) if previous is not None else None
        with _named(f"plugin {spec.name} of route {route}"):
            plugin = spec.plugin(spec.config, self._services)
            plugin.parts = tuple(parts)
            if before is not None and before.spec.plugin is spec.plugin and before.spec.config == spec.config:
                plugin.inherit(before.plugin)
        self._plugins[route, name] = _Placed(route, spec, plugin)
        return plugin


def _forwarding(config: GatewayConfig, previous: Runtime | None) -> Forwarding:
    if previous is not None and previous.config.trusted_proxies == config.trusted_proxies:
        return previous.forwarding
    return Forwarding(config.trusted_proxies)


def _consumers(config: GatewayConfig, previous: Runtime | None) -> Consumers:
    if previous is not None and _who_may_what(previous.config) == _who_may_what(config):
        return previous.consumers
    return Consumers(config.consumers, config.roles)


def _who_may_what(config: GatewayConfig) -> object:
    return config.consumers, config.roles


def _shedding(config: GatewayConfig, metrics: Metrics, previous: Runtime | None) -> Shedding | None:
    if config.shedding is None:
        return None
    before = previous.shedding if previous is not None else None
    if before is not None and before.options == config.shedding:
        return before
    shedding = Shedding(config.shedding, metrics, Random())  # noqa: S311 - nothing is guarded by it
    if before is not None:
        shedding.inherit(before)
    return shedding


def _forwarder(upstreams: Mapping[str, Upstream]) -> Callable[[Request, str], Awaitable[Response]]:
    """`Services.forward`; it knows no more than it needs, as a plugin that somebody remembers keeps it alive."""

    async def forward(request: Request, upstream: str) -> Response:
        return await response_of(lambda caller: upstreams[upstream].call(request, caller))

    return forward


async def _begin(part: Upstream | ServerTls) -> None:
    with _named(f"upstream {part.name}" if isinstance(part, Upstream) else f"listener {part.bind}"):
        await part.start()


@contextmanager
def _named(part: str) -> Iterator[None]:
    """Whatever goes wrong in here is this part's fault. Raises BuildFailed."""
    try:
        yield
    except (Exception, SystemExit) as error:  # a stranger's plugin may raise anything
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise BuildFailed(redact(f"{part}: {text}")) from error
