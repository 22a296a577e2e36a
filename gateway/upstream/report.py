"""Report: what one process knows of an upstream and its targets, for the eyes of an operator."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import TYPE_CHECKING

import msgspec

from gateway.upstream.health import HealthState
from gateway.upstream.target import Target

if TYPE_CHECKING:
    from gateway.upstream.connection import Connection
    from gateway.upstream.upstream import Upstream


class TargetReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """One target. `breaker` is the state of the upstream's circuit to it, None if no call has needed one.

    `in_flight` counts the calls that have a connection to it; `latency_seconds` is the median of what the last call of
    each connection took, to its last byte, None before there was one.
    """

    name: str
    weight: int
    health: HealthState
    reason: str = ""
    zone: str | None = None
    breaker: str | None = None
    in_flight: int = 0
    latency_seconds: float | None = None


class UpstreamReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """One upstream. `breaker` is the state of the circuit of all its targets together.

    `panics`: so few targets are available that all of them are called.
    """

    name: str
    targets: list[TargetReport]
    breaker: str | None = None
    panics: bool = False


def report_of(upstream: Upstream, earlier: Iterable[Upstream] = ()) -> UpstreamReport:
    """What is known of an upstream; `earlier` are those of its name from before a reload, whose calls go on."""
    connections: dict[str, list[Connection]] = {}
    for each in (upstream, *earlier):
        for connection in each.pool.connections:
            connections.setdefault(connection.target.name, []).append(connection)
    return UpstreamReport(
        upstream.name,
        [_target(upstream, target, connections.get(target.name, [])) for target in upstream.targets.all],
        upstream.circuits.whole.state if upstream.circuits is not None else None,
        upstream.targets.panics,
    )


def _target(upstream: Upstream, target: Target, connections: list[Connection]) -> TargetReport:
    health, reason = upstream.targets.health(target)
    circuit = upstream.circuits.known(target) if upstream.circuits is not None else None
    took = [connection.took for connection in connections if connection.took is not None]
    return TargetReport(
        target.name,
        target.weight,
        health,
        reason,
        target.zone,
        circuit.state if circuit is not None else None,
        sum(not connection.usable for connection in connections),
        median(took) if took else None,
    )
