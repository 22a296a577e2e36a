"""Admin: health, readiness, metrics, routes and reloads, on a listener of its own that customers do not reach."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
from aiohttp import web

from gateway.downstream.listener import Bind, parse_bind
from gateway.exposition import CONTENT_TYPE, Exposition
from gateway.options import Options
from gateway.problem import MethodNotAllowed, NoRoute, OriginRefused, Problem

if TYPE_CHECKING:
    from gateway.config.configuration import GatewayConfig
    from gateway.config.description import Description
    from gateway.route import RouteOptions

_encode: Final = msgspec.json.Encoder().encode
_log: Final = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AdminOptions(Options):
    """The listener for operators: /health, /ready, /metrics, /routes, /configuration, /reload."""

    bind: Bind = "127.0.0.1:9090"
    """Address and port. Keep it off the public network."""


class Node(Protocol):
    """What is administered."""

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Whether requests can be served, and what there is to say about it."""

    def routes(self) -> list[dict[str, Any]]:
        """The routes that are served."""

    def description(self) -> Description:
        """The configuration that is served."""

    async def reload(self) -> list[str]:
        """Take the configuration as it stands in its files; what has changed. Raises ConfigurationRefused."""


class Admin:
    """The admin listener of a node. It changes nothing but by POST /reload."""

    def __init__(self, options: AdminOptions, *, exposition: Exposition, node: Node) -> None:
        self._options = options
        self._exposition = exposition
        self._node = node
        self._runner: web.AppRunner | None = None
        self.bound: tuple[Any, ...] = ("", 0)

    async def start(self) -> None:
        """Listens. Raises OSError if the address cannot be had."""
        application = web.Application(middlewares=[_guard], client_max_size=1024)
        application.on_response_prepare.append(_dress)
        application.router.add_get("/health", self._health)
        application.router.add_get("/ready", self._ready)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/routes", self._list_routes)
        application.router.add_get("/configuration", self._describe)
        application.router.add_post("/reload", self._reload)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            host, port = parse_bind(self._options.bind)
            await web.TCPSite(self._runner, host, port).start()
        except OSError:
            await self.stop()
            raise
        self.bound = self._runner.addresses[0]

    async def stop(self) -> None:
        """Closes the listener and its connections. Idempotent."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _health(self, _: web.Request) -> web.Response:
        return _json(200, {"status": "alive"})

    async def _ready(self, _: web.Request) -> web.Response:
        ready, details = self._node.readiness()
        return _json(200 if ready else 503, {"ready": ready, **details})

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._exposition.render(), headers={"content-type": CONTENT_TYPE})

    async def _list_routes(self, _: web.Request) -> web.Response:
        return _json(200, {"routes": self._node.routes()})

    async def _describe(self, _: web.Request) -> web.Response:
        return _json(200, {"configuration": self._node.description()})

    async def _reload(self, request: web.Request) -> web.Response:
        if "origin" in request.headers:
            # A page in the operator's browser can send a POST anywhere; programs that are meant to do not say this.
            raise OriginRefused
        return _json(200, {"changes": await self._node.reload()})


def describe_routes(config: GatewayConfig) -> list[dict[str, Any]]:
    """What /routes shows: each route with what it matches, its plugins in order and what is behind it."""
    return [
        {
            "name": route.name,
            "match": route.match.model_dump(exclude_defaults=True),
            "plugins": [spec.name for spec in config.plugins_of(route)],
            **_behind(config, route),
        }
        for route in config.routes
    ]


def _behind(config: GatewayConfig, route: RouteOptions) -> dict[str, Any]:
    """What a route's requests meet behind its plugins: one upstream, or several with their weights; and what else."""

    def described(name: str) -> dict[str, Any]:
        return {"name": name, "targets": [target.url for target in config.upstreams[name].targets]}

    if route.upstream is not None:
        behind: dict[str, Any] = {"upstream": described(route.upstream)}
    else:
        behind = {"split": [described(name) | {"weight": weight} for name, weight in route.shares.items()]}
    if route.fallback is not None:
        reply, other = route.fallback.reply, route.fallback.upstream
        behind["fallback"] = described(other) if other is not None else {"status": reply.status if reply else 200}
    if route.mirror is not None:
        behind["mirror"] = described(route.mirror.upstream) | {"share": route.mirror.share}
    if route.bulkhead is not None:
        behind["bulkhead"] = {"max_in_flight": route.bulkhead.max_in_flight}
    return behind


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every refusal a problem without internals. Only a reload waits, and that has deadlines of its own."""
    try:
        return await handler(request)
    except Problem as refusal:
        problem = refusal
    except web.HTTPMethodNotAllowed as refusal:
        allowed = ", ".join(sorted(refusal.allowed_methods))
        problem = MethodNotAllowed(headers={"allow": allowed})
    except web.HTTPException:
        problem = NoRoute("There are /health, /ready, /metrics, /routes, /configuration and POST /reload.")
    except Exception:  # noqa: BLE001 - a bug here must not show its text to whoever asked
        _log.exception("the admin listener failed to answer %s", request.path)
        problem = Problem()
    answer = problem.response()
    return web.Response(status=answer.status, headers=list(answer.headers.items()), body=answer.body)


async def _dress(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["server"] = "tallygate"
    response.headers.setdefault("cache-control", "no-store")


def _json(status: int, document: dict[str, Any]) -> web.Response:
    return web.Response(status=status, body=_encode(document) + b"\n", content_type="application/json")
