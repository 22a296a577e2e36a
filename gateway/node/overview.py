"""Overview: what operators see of a node, put together from what its processes count and what they say when asked."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from gateway.admin.status import (
    DestinationStatus,
    PluginStatus,
    ProcessStatus,
    Routes,
    RouteStatus,
    Status,
    UsageStatus,
)
from gateway.background import Background
from gateway.child import Child
from gateway.clock import Clock
from gateway.config.configuration import GatewayConfig
from gateway.config.description import match_of
from gateway.node.edge_process import EdgeProcess
from gateway.node.history import DURATIONS, REQUESTS, SAMPLE_SECONDS, History
from gateway.node.target_reports import TargetReports, merged
from gateway.readings import Reading, Readings, Source

_MEMORY: Final = "tallygate_process_resident_bytes"
_JOURNAL_BYTES: Final = "tallygate_journal_bytes"
_JOURNAL_SEGMENTS: Final = "tallygate_journal_segments"
_UNACCOUNTED: Final = "tallygate_usage_unaccounted_seconds"
_STREAM_ENTRIES: Final = "tallygate_stream_entries"
_STREAM_LAG: Final = "tallygate_stream_lag"
_SHOWN: Final = (_MEMORY, _JOURNAL_BYTES, _JOURNAL_SEGMENTS, _UNACCOUNTED, _STREAM_ENTRIES, _STREAM_LAG)


class Overview:
    """Looks at the processes of a node. `edges` and `companions` are its children, as the supervisor has them."""

    def __init__(
        self,
        edges: Sequence[EdgeProcess],
        companions: Sequence[Child],
        sources: Callable[[], Iterable[Source]],
        background: Background,
    ) -> None:
        """`sources` are the cells of all processes, the supervisor's own among them."""
        self._edges = edges
        self._companions = companions
        self._background = background
        self._reports = TargetReports(edges, background)
        self._history = History(Readings(sources, (REQUESTS, DURATIONS)))
        self._readings = Readings(sources, _SHOWN)
        self._clock = Clock()

    def start(self, config: Callable[[], GatewayConfig]) -> None:
        """Begin to keep the history of the routes of what is served then."""

        def take() -> None:
            self._history.take(route.name for route in config().routes)

        self._background.every(SAMPLE_SECONDS, take, "history of routes", at_once=True)

    async def routes(self, config: GatewayConfig) -> Routes:
        """Each route with its plugins in order, and each upstream with how its targets are."""
        reports = await self._reports.collect()
        routes = [
            RouteStatus(
                route.name,
                match_of(config, place),
                [PluginStatus(spec.name, spec.plugin.hooks(spec.config)) for spec in config.plugins_of(route)],
                DestinationStatus.of(route),
            )
            for place, route in enumerate(config.routes)
        ]
        silent = [name for name, report in reports.items() if report is None]
        return Routes(routes, merged(config.upstreams, reports), silent)

    async def status(self, config: GatewayConfig, ready: bool, details: dict[str, Any]) -> Status:
        """The whole of it; `ready` and `details` are what /ready says."""
        readings = list(self._readings.look())
        return Status(
            at=datetime.fromtimestamp(self._clock.micros() / 1e6, UTC).isoformat(timespec="seconds"),
            ready=ready,
            draining=details["draining"],
            listeners=details["listeners"],
            configuration=details["configuration"],
            stores=details["stores"],
            processes=self._processes({each.process: each.cells[0] for each in readings if each.metric == _MEMORY}),
            routes=await self.routes(config),
            traffic=self._history.traffic(),
            sample_seconds=SAMPLE_SECONDS,
            usage=_usage(readings),
        )

    def _processes(self, memory: dict[str, float]) -> list[ProcessStatus]:
        generations = {edge.child.name: edge.generation for edge in self._edges}
        return [
            ProcessStatus(
                child.name,
                child.pid,
                child.ready,
                child.starts,
                child.up_seconds,
                memory.get(child.name),
                generations.get(child.name),
            )
            for child in (*(edge.child for edge in self._edges), *self._companions)
        ]


def _usage(readings: Iterable[Reading]) -> UsageStatus:
    measured: defaultdict[str, float | None] = defaultdict(lambda: None)
    for reading in readings:
        if not math.isnan(reading.cells[0]):
            measured[reading.metric] = (measured[reading.metric] or 0.0) + reading.cells[0]
    return UsageStatus(
        journal_bytes=measured[_JOURNAL_BYTES],
        journal_segments=measured[_JOURNAL_SEGMENTS],
        unaccounted_seconds=measured[_UNACCOUNTED],
        stream_entries=measured[_STREAM_ENTRIES],
        stream_lag=measured[_STREAM_LAG],
    )
