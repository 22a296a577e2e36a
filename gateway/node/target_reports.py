"""Target reports: what the edge processes know of their targets, asked of all of them at once and put together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Final, TypeAlias

from gateway.admin.status import TargetStatus, UpstreamStatus
from gateway.background import Background
from gateway.node.edge_process import EdgeProcess
from gateway.upstream.options import UpstreamOptions
from gateway.upstream.report import TargetReport, UpstreamReport
from gateway.upstream.target import Target

FRESH_SECONDS: Final = 1.0
"""For how long an answer is given again: many who ask cost no more than one."""
_WORST_FIRST: Final = ("ejected", "unhealthy", "draining", "healthy", "unknown")
_BREAKER_WORST_FIRST: Final = ("open", "half-open", "closed")

Reports: TypeAlias = Mapping[str, list[UpstreamReport] | None]
"""By the name of the process; None for one that did not answer in time."""


class TargetReports:
    """Asks when somebody wants to know, and never more often than once in FRESH_SECONDS."""

    def __init__(self, edges: Sequence[EdgeProcess], background: Background) -> None:
        self._edges = edges
        self._background = background
        self._asking: asyncio.Task[Reports] | None = None
        self._asked_at = 0.0

    async def collect(self) -> Reports:
        """What each process says; it takes no longer than `edge_process.REPORT_SECONDS`."""
        now = asyncio.get_running_loop().time()
        if self._asking is None or (self._asking.done() and now - self._asked_at >= FRESH_SECONDS):
            self._asked_at = now
            self._asking = self._background.start(self._ask(), "reports of targets")
        asking = self._asking
        await asyncio.wait({asking})  # whoever leaves meanwhile does not cancel it for the others
        return asking.result()

    async def _ask(self) -> Reports:
        answers = await asyncio.gather(*[edge.report() for edge in self._edges])
        return {edge.child.name: answer for edge, answer in zip(self._edges, answers, strict=True)}


def merged(upstreams: Mapping[str, UpstreamOptions], reports: Reports) -> list[UpstreamStatus]:
    """Each upstream of the configuration as all processes together see it."""
    said: dict[str, dict[str, UpstreamReport]] = {name: {} for name in upstreams}
    for process, answer in reports.items():
        for report in answer or ():
            if report.name in said:
                said[report.name][process] = report
    return [_upstream(name, options, said[name]) for name, options in upstreams.items()]


def _upstream(name: str, options: UpstreamOptions, said: Mapping[str, UpstreamReport]) -> UpstreamStatus:
    targets: dict[str, dict[str, TargetReport]] = {}
    for process, report in said.items():
        for target in report.targets:
            targets.setdefault(target.name, {})[process] = target
    if targets:
        statuses = [_target(of_target, processes) for of_target, processes in targets.items()]
    else:
        configured = [Target(target) for target in options.targets]
        statuses = [TargetStatus(target.name, target.weight, target.zone) for target in configured]
    return UpstreamStatus(
        name,
        options.balancer.name,
        _worst_breaker(report.breaker for report in said.values()),
        [process for process, report in said.items() if report.panics],
        statuses,
    )


def _target(name: str, said: dict[str, TargetReport]) -> TargetStatus:
    worst = min(said.values(), key=lambda report: _WORST_FIRST.index(report.health))
    latencies = [report.latency_seconds for report in said.values() if report.latency_seconds is not None]
    return TargetStatus(
        name,
        worst.weight,
        worst.zone,
        worst.health,
        worst.reason,
        sum(report.health == worst.health for report in said.values()),
        _worst_breaker(report.breaker for report in said.values()),
        sum(report.in_flight for report in said.values()),
        fmean(latencies) if latencies else None,
        said,
    )


def _worst_breaker(states: Iterable[str | None]) -> str | None:
    known = [state for state in states if state is not None]
    return min(known, key=_BREAKER_WORST_FIRST.index, default=None)
