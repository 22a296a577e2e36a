"""Explanation: what would become of a request, without making one: its route, its plugins, its upstream, its limits.

The request is read, routed and put through a chain by the code that does it in an edge process. Plugins are looked at
and not run, as whom they let pass may depend on stores and on what else is going on; those that have more to say than
what they are for say what they would do with it, and with a caller who is assumed (`Plugin.explain`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from random import Random
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

import msgspec

from gateway.admin.status import DestinationStatus
from gateway.assumed import NOBODY, Assumed
from gateway.chain import Chain
from gateway.clock import Clock
from gateway.config.configuration import GatewayConfig
from gateway.config.description import match_of, veiled
from gateway.config.plugin_loader import PluginSpec
from gateway.exchange import Exchange, Request
from gateway.http1.request_reader import RequestReader
from gateway.options import write_amount
from gateway.plugin import AUTHENTICATION, AnyPlugin
from gateway.problem import BadRequest, MethodNotAllowed, NoRoute, Problem
from gateway.route import MatchOptions, Route, RouteOptions
from gateway.router import Router
from gateway.upstream.split import Split

if TYPE_CHECKING:
    from gateway.body import Source
    from gateway.consumers import Consumer
    from gateway.upstream.bulkhead import BulkheadOptions
    from gateway.upstream.options import UpstreamOptions
    from gateway.upstream.upstream import Upstream

MOST_OTHERS: Final = 5
"""Routes that do not take the request and are named."""
_LARGEST_HEAD: Final = 64 * 1024


class PluginStop(msgspec.Struct, frozen=True, omit_defaults=True):
    """A plugin on the way. `target` is what it would change the request target to, `says` what else there is to say of
    this request, `refusal` the status that it would be refused with, and why. Those behind a refusal say nothing.
    """

    name: str
    hooks: list[str]
    does: str
    target: str | None = None
    says: list[str] = []
    refusal: str | None = None


class OtherRoute(msgspec.Struct, frozen=True):
    """A route that does not take the request, and why."""

    name: str
    reason: str


class UpstreamCall(msgspec.Struct, frozen=True):
    """What would be called: an upstream, one of its targets with this request line and Host, within these limits."""

    name: str
    weight: int
    balancer: str
    targets: list[str]
    request: str
    host: str
    limits: dict[str, str]


class Explanation(msgspec.Struct, frozen=True, omit_defaults=True):
    """What would become of a request. Without a `route`, or where a plugin would refuse it, `status` and `title` say
    how it is refused.

    Of several upstreams that share a route's requests, `picked` names the one that the request's own key decides for,
    empty where it is drawn or depends on who calls.
    """

    request: str
    host: str
    others: list[OtherRoute]
    plugins: list[PluginStop]
    route: str | None = None
    match: dict[str, Any] = {}
    parameters: dict[str, str] = {}
    limits: dict[str, str] = {}
    upstreams: list[UpstreamCall] = []
    picked: str = ""
    fallback: str | int | None = None
    mirror: str | None = None
    status: int = 0
    title: str = ""
    allow: str = ""


def request_of(method: str, url: str, fields: Iterable[tuple[str, str]]) -> Request:
    """The request for a URL, or for a path on no particular host, as it is read from a connection.

    Raises a Problem for what would be refused before it is routed.
    """
    given = list(fields)
    if any(control in text for text in (method, url, *chain(*given)) for control in "\r\n\t"):
        raise BadRequest("A request has no control characters.")
    parts = urlsplit(url)
    target = url if not parts.netloc else parts._replace(scheme="", netloc="").geturl() or "/"
    target = "/" + target if target.startswith("?") else target
    if parts.netloc:
        given.insert(0, ("host", parts.netloc.rpartition("@")[2]))
    lines = "".join(f"{name}: {value}\r\n" for name, value in given)
    version = "1.1" if any(name.lower() == "host" for name, _ in given) else "1.0"  # which needs none
    head = f"{method} {target} HTTP/{version}\r\n{lines}\r\n"
    try:
        request = RequestReader(cast("Source", None), _LARGEST_HEAD).feed(head.encode("latin-1"))
    except UnicodeEncodeError:
        request = None
    if request is None:
        raise BadRequest("This is not a single request.")
    return request


def explain(config: GatewayConfig, request: Request, caller: Assumed = NOBODY) -> Explanation:
    """What would become of this request of this caller. Raises BadRequest for a path that no two servers would read
    alike, and InvalidValues for a caller that cannot be.
    """
    routes = [_route(options, config.plugins_of(options)) for options in config.routes]
    told = partial(Explanation, f"{request.method} {request.target}", request.host)
    exchange = Exchange(request, Clock())
    consumer, request.client = caller.consumer(config.consumers, config.roles), caller.address()
    try:
        route, exchange.parameters = Router(routes).find(request)
    except (NoRoute, MethodNotAllowed) as refusal:
        return told(
            others=_others(config, routes, request),
            plugins=_stops(config, config.plugins_of(None), exchange, consumer)[0],
            status=refusal.status,
            title=refusal.title(),
            allow=str(refusal.headers.get("allow", "")),
        )
    exchange.route = route.name
    options = config.routes[route.place]
    others = _others(config, routes, request, to=route)
    specs = config.plugins_of(options)
    plugins, refused = _stops(config, specs, exchange, consumer)
    line = _veiled(f"{request.method} {request.target}", config, specs)
    # From here on the request is as the plugins leave it.
    return told(
        others,
        plugins,
        route=route.name,
        match=match_of(config, route.place),
        parameters=dict(exchange.parameters),
        limits=_limits_of_route(options),
        upstreams=[
            _call(name, weight, config.upstreams[name], request.host, line) for name, weight in options.shares.items()
        ],
        picked=_picked(options, request),
        fallback=DestinationStatus.of(options).fallback,
        mirror=DestinationStatus.of(options).mirror,
        status=refused.status if refused is not None else 0,
        title=refused.title() if refused is not None else "",
    )


def _route(options: RouteOptions, specs: Iterable[PluginSpec]) -> Route:
    looked_at = Chain([spec.unmade() for spec in specs])
    return Route(options, looked_at, cast("Upstream", None), Clock())  # nothing is forwarded


def _stops(
    config: GatewayConfig, specs: Sequence[PluginSpec], exchange: Exchange, consumer: Consumer | None
) -> tuple[list[PluginStop], Problem | None]:
    """The plugins in order, each seeing what those before it have left, and the refusal of the first that refuses."""
    stops: list[PluginStop] = []
    refused: Problem | None = None
    for spec in specs:
        before, says, refusal = exchange.request.target, list[str](), None
        if refused is None:
            refused = _heard(spec, exchange, says)
            if refused is not None:
                refusal = _veiled(f"{refused.status} {refused.detail or refused.title()}", config, specs)
        if spec.plugin.guards == AUTHENTICATION:
            exchange.consumer = consumer
        after = exchange.request.target
        target = _veiled(after, config, specs) if after != before else None
        says = [_veiled(sentence, config, specs) for sentence in says]
        hooks, does = spec.plugin.hooks(spec.config), _first_line(spec.plugin)
        stops.append(PluginStop(spec.name, hooks, does, target, says, refusal))
    return stops, refused


def _veiled(text: str, config: GatewayConfig, specs: Iterable[PluginSpec]) -> str:
    """What plugins have made of their options may hold secrets of the environment."""
    return veiled(text, config.source, [spec.steps for spec in specs])


def _heard(spec: PluginSpec, exchange: Exchange, says: list[str]) -> Problem | None:
    """Writes down what a plugin says of this request; its refusal, should it refuse."""
    try:
        says.extend(spec.plugin.explain(spec.config, exchange))
    except Problem as refusal:
        return refusal
    return None


def _others(
    config: GatewayConfig, routes: Iterable[Route], request: Request, to: Route | None = None
) -> list[OtherRoute]:
    """The routes that come nearest to taking the request, which `to` does take, and why they do not."""
    found = []
    for route in routes:
        if route is not to:
            failed = list(_failed(route.match, match_of(config, route.place), request))
            reason = ", and ".join(failed) or f"it matches too, and {to.name if to else 'none'} is more specific"
            found.append((len(failed), OtherRoute(route.name, reason)))
    found.sort(key=lambda entry: entry[0])
    return [other for _, other in found[:MOST_OTHERS]]


def _failed(match: MatchOptions, shown: Mapping[str, Any], request: Request) -> Iterator[str]:
    """What is to be said of each condition that does not hold for the request, in the words of what may be `shown`."""
    if match.host is not None and not _takes(MatchOptions(host=match.host), request):
        yield f"the host is {request.host or 'missing'}, not {match.host}"
    if not _takes(MatchOptions(path=match.path), request):
        yield f"the path is not {match.path}"
    if match.methods is not None and not _takes(MatchOptions(methods=match.methods), request):
        yield f"the method is {request.method}, not {' or '.join(match.methods)}"
    for name, value in match.headers.items():
        if not _takes(MatchOptions(headers={name: value}), request):
            yield f"the field {name} is not {shown['headers'][name]}"


def _takes(match: MatchOptions, request: Request) -> bool:
    """Whether a route with this alone would take the request; the router decides, as it does on the way."""
    alone = _route(RouteOptions(name="alone", upstream="none", match=match), [])
    try:
        Router([alone]).find(request)
    except (NoRoute, MethodNotAllowed):
        return False
    return True


def _picked(route: RouteOptions, request: Request) -> str:
    if route.split_by is None or route.split_by.reader()(request) is None:
        return ""
    return Split(route.split, route.split_by, Random()).pick(request)  # noqa: S311 - a key decides, nothing is drawn


def _call(name: str, weight: int, options: UpstreamOptions, asked: str, line: str) -> UpstreamCall:
    kept = asked if options.host == "preserve" else ""
    host = kept or ("the target's own" if options.host in ("preserve", "target") else options.host)
    targets = [target.url for target in options.targets]
    return UpstreamCall(name, weight, options.balancer.name, targets, line, host, _limits_of_upstream(options))


def _limits_of_route(route: RouteOptions) -> dict[str, str]:
    """What bounds such a request on its way to an upstream, in the words of the configuration."""
    limits = {"max_body": write_amount(route.max_body, "size")}
    return limits | ({} if route.bulkhead is None else {"bulkhead": _places(route.bulkhead)})


def _limits_of_upstream(upstream: UpstreamOptions) -> dict[str, str]:
    """What bounds a call, in the words of the configuration."""
    timeouts = upstream.timeouts
    limits = {
        "timeouts": ", ".join(
            f"{name} {write_amount(getattr(timeouts, name), 'duration')}"
            for name in ("connect", "first_byte", "idle", "total")
        ),
        "max_connections": f"{upstream.max_connections} per process, {upstream.max_waiting} calls may wait",
    }
    if upstream.bulkhead is not None:
        limits["bulkhead"] = _places(upstream.bulkhead)
    if upstream.retry is not None:
        limits["retry"] = f"{upstream.retry.attempts} attempts"
    if upstream.circuit_breaker is not None:
        breaker = upstream.circuit_breaker
        share = write_amount(breaker.failure_threshold, "rate")
        limits["circuit_breaker"] = f"opens at {share} failures of {breaker.minimum_requests} calls or more"
    return limits


def _places(bulkhead: BulkheadOptions) -> str:
    return f"{bulkhead.max_in_flight} in flight per process, {bulkhead.max_waiting} may wait"


def _first_line(plugin: type[AnyPlugin]) -> str:
    """What a plugin does, in the words that its module begins with."""
    return (sys.modules[plugin.__module__].__doc__ or plugin.__doc__ or "").strip().partition("\n")[0]
