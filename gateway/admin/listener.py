"""Admin listener: health, metrics, a live page and reloads, at an address that customers do not reach."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
from aiohttp import web

from gateway.admin.options import AdminOptions
from gateway.admin.page import add_page, page
from gateway.admin.status import Routes, Status
from gateway.assumed import Assumed
from gateway.downstream.listener import parse_bind
from gateway.exposition import CONTENT_TYPE, Exposition
from gateway.problem import BadRequest, MethodNotAllowed, NoRoute, OriginRefused, Problem

if TYPE_CHECKING:
    from gateway.config.description import Description
    from gateway.explanation import Explanation

_encode: Final = msgspec.json.Encoder().encode
_log: Final = logging.getLogger(__name__)
_LISTS: Final = frozenset({"roles", "scopes", "permissions"})
"""What a caller that is assumed may have several of."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Node(Protocol):
    """What is administered."""

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Whether requests can be served, and what there is to say about it."""

    async def routes(self) -> Routes:
        """The routes that are served, and how their upstreams are."""

    async def status(self) -> Status:
        """How everything is."""

    def explain(self, method: str, url: str, fields: Sequence[tuple[str, str]], caller: Assumed) -> Explanation:
        """What would become of this caller's request. Raises a Problem if it would be refused before it is routed."""

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
        add_page(application)
        application.router.add_get("/", self._page)
        application.router.add_get("/health", self._health)
        application.router.add_get("/ready", self._ready)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/status", self._status)
        application.router.add_get("/routes", self._routes)
        application.router.add_get("/explain", self._explain)
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

    async def _page(self, request: web.Request) -> web.Response:
        return page(request, await self._node.status())

    async def _health(self, _: web.Request) -> web.Response:
        return _json(200, {"status": "alive"})

    async def _ready(self, _: web.Request) -> web.Response:
        ready, details = self._node.readiness()
        return _json(200 if ready else 503, {"ready": ready, **details})

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._exposition.render(), headers={"content-type": CONTENT_TYPE})

    async def _status(self, _: web.Request) -> web.Response:
        return _json(200, await self._node.status())

    async def _routes(self, _: web.Request) -> web.Response:
        return _json(200, await self._node.routes())

    async def _explain(self, request: web.Request) -> web.Response:
        """`?method=GET&url=/x`, `header=name: value` as often as there are fields, and the members of an `Assumed`."""
        query = request.query
        if "url" not in query:
            raise BadRequest("Say which request: /explain?method=GET&url=/path&header=name:%20value")
        fields = [header.partition(":")[::2] for header in query.getall("header", [])]
        stripped = [(name.strip(), value.strip()) for name, value in fields]
        said = {name: query.getall(name) for name in Assumed.__struct_fields__ if name in query}
        caller = msgspec.convert({name: each if name in _LISTS else each[-1] for name, each in said.items()}, Assumed)
        return _json(200, self._node.explain(query.get("method", "GET"), query["url"], stripped, caller))

    async def _describe(self, _: web.Request) -> web.Response:
        return _json(200, {"configuration": self._node.description()})

    async def _reload(self, request: web.Request) -> web.Response:
        if "origin" in request.headers:
            # A page in the operator's browser can send a POST anywhere; programs that are meant to do not say this.
            raise OriginRefused
        return _json(200, {"changes": await self._node.reload()})


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every refusal a problem without internals. What waits has deadlines of its own."""
    try:
        return await handler(request)
    except Problem as refusal:
        problem = refusal
    except web.HTTPMethodNotAllowed as refusal:
        allowed = ", ".join(sorted(refusal.allowed_methods))
        problem = MethodNotAllowed(headers={"allow": allowed})
    except web.HTTPException:
        there_are = "/, /health, /ready, /metrics, /status, /routes, /explain, /configuration"
        problem = NoRoute(f"There are {there_are} and POST /reload.")
    except Exception:  # noqa: BLE001 - a bug here must not show its text to whoever asked
        _log.exception("the admin listener failed to answer %s", request.path)
        problem = Problem()
    answer = problem.response()
    return web.Response(status=answer.status, headers=list(answer.headers.items()), body=answer.body)


async def _dress(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["server"] = "tallygate"
    response.headers["x-content-type-options"] = "nosniff"
    response.headers.setdefault("cache-control", "no-store")


def _json(status: int, document: dict[str, Any] | msgspec.Struct) -> web.Response:
    return web.Response(status=status, body=_encode(document) + b"\n", content_type="application/json")
