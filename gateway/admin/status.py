"""Status: how a node is, in the form in which it is shown: as JSON to programs, and on the page to people."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gateway.route import RouteOptions
from gateway.upstream.health import HealthState
from gateway.upstream.report import TargetReport

SAMPLES: Final = 60
"""How many samples of a route's traffic are kept."""
MOST_ROUTES: Final = 200
"""Routes whose traffic is kept and that are shown on the page, the first ones of the configuration."""


class PluginStatus(msgspec.Struct, frozen=True):
    """A plugin in a chain, and the hooks that are called."""

    name: str
    hooks: list[str]


class DestinationStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """What stands behind a route: the upstreams that answer, each with its weight, and what there is besides.

    `fallback` is the upstream that is called when they fail, or the status of the reply that is given then.
    """

    upstreams: dict[str, int]
    fallback: str | int | None = None
    mirror: str | None = None
    mirror_share: float = 0.0
    max_in_flight: int | None = None

    @classmethod
    def of(cls, route: RouteOptions) -> DestinationStatus:
        """What these options say."""
        fallback, mirror, bulkhead = route.fallback, route.mirror, route.bulkhead
        reply = fallback.reply.status if fallback is not None and fallback.reply is not None else None
        return cls(
            route.shares,
            fallback.upstream if fallback is not None and fallback.upstream is not None else reply,
            mirror.upstream if mirror is not None else None,
            mirror.share if mirror is not None else 0.0,
            bulkhead.max_in_flight if bulkhead is not None else None,
        )


class RouteStatus(msgspec.Struct, frozen=True):
    """A route: what it matches, its plugins in order, and what is behind it."""

    name: str
    match: dict[str, Any]
    plugins: list[PluginStatus]
    destination: DestinationStatus


class TargetStatus(msgspec.Struct, frozen=True):
    """A target as all processes together see it: the worst that one of them says, and what each says.

    `in_flight` is the sum, `latency_seconds` the mean. `agreeing` is how many processes say what `health` says.
    """

    name: str
    weight: int
    zone: str | None = None
    health: HealthState = "unknown"
    reason: str = ""
    agreeing: int = 0
    breaker: str | None = None
    in_flight: int = 0
    latency_seconds: float | None = None
    processes: dict[str, TargetReport] = {}


class UpstreamStatus(msgspec.Struct, frozen=True):
    """An upstream. `panicking` names the processes that call all its targets because too few are available."""

    name: str
    balancer: str
    breaker: str | None
    panicking: list[str]
    targets: list[TargetStatus]


class Routes(msgspec.Struct, frozen=True):
    """Every route and upstream. `silent` names the processes that did not say in time how their targets are."""

    routes: list[RouteStatus]
    upstreams: list[UpstreamStatus]
    silent: list[str]


class ProcessStatus(msgspec.Struct, frozen=True):
    """A process of the node. `starts` counts how often it was started, `generation` is the configuration it serves."""

    name: str
    pid: int | None
    ready: bool
    starts: int
    up_seconds: float | None
    memory_bytes: float | None = None
    generation: int | None = None


class Traffic(msgspec.Struct, frozen=True):
    """What came to a route: requests and errors (answers of 500 and above) per second, one for each sample, the latest
    last; and the time within which 19 of 20 requests of the last minute were answered, None where there were none.
    """

    requests: list[float]
    errors: list[float]
    p95_seconds: float | None


class UsageStatus(msgspec.Struct, frozen=True):
    """How far usage is on its way into the books; None where nobody has measured it yet."""

    journal_bytes: float | None
    journal_segments: float | None
    unaccounted_seconds: float | None
    stream_entries: float | None
    stream_lag: float | None


class Status(msgspec.Struct, frozen=True):
    """The whole of a node. `traffic` is by the name of the route, of the first routes only if there are very many.

    `sample_seconds` is the time between two samples. `configuration` and `stores` are as /ready shows them.
    """

    at: str
    ready: bool
    draining: bool
    listeners: list[str]
    configuration: dict[str, Any]
    stores: dict[str, Any]
    processes: list[ProcessStatus]
    routes: Routes
    traffic: dict[str, Traffic]
    sample_seconds: float
    usage: UsageStatus
