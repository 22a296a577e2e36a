"""Circles: redirects that lead to each other, so that nobody who follows them ever arrives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import cast

from gateway.chain import Chain
from gateway.clock import Clock
from gateway.config.plugin_loader import PluginSpec
from gateway.config.source import Source
from gateway.exchange import Request
from gateway.headers import Headers
from gateway.problem import Problem
from gateway.route import MatchOptions, Route, RouteOptions
from gateway.router import Router
from gateway.upstream.upstream import Upstream


def check_circles(source: Source, routes: Sequence[RouteOptions], chains: Mapping[str, Sequence[PluginSpec]]) -> None:
    """Add a fault for each plugin that sends requests into a circle: to a path whose route sends them on, and so on.

    Followed are those that send all requests to one path (`Plugin.leads_to`), as requests of the route's own kind.
    """
    leading = {name: specs[0] for name, chain in chains.items() if (specs := [spec for spec in chain if _leads(spec)])}
    if not leading:
        return
    router = Router([Route(options, Chain([]), cast("Upstream", None), Clock()) for options in routes])
    for options in routes:
        if options.name in leading:
            spec = leading[options.name]
            circle = _circle(str(_leads(spec)), partial(_next, router, leading, options.match))
            if circle:
                source.fault(spec.steps, f"leads in a circle: {' → '.join(circle)}")


def _leads(spec: PluginSpec) -> str | None:
    return spec.plugin.leads_to(spec.config)


def _next(router: Router, leading: Mapping[str, PluginSpec], match: MatchOptions, path: str) -> str | None:
    """Where a request like those that match is sent on to from this path, if it is."""
    methods = match.methods or ["GET"]
    request = Request("GET" if "GET" in methods else methods[0], path, Headers(match.headers))
    request.host = (match.host or "").replace("*", "any")
    try:
        route, _ = router.find(request)
    except Problem:
        return None
    spec = leading.get(route.name)
    return _leads(spec) if spec is not None else None


def _circle(path: str, sends_on: Callable[[str], str | None]) -> list[str]:
    """The paths on the way from this one until one comes again; nothing if none does. Who is there already stays."""
    way = [path]
    while (following := sends_on(way[-1])) is not None and following != way[-1]:
        if following in way:
            return [*way[way.index(following) :], following]
        way.append(following)
    return []
