"""Target gauges: how each target of each upstream is, in the metrics of the process that calls them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from gateway.upstream.report import UpstreamReport

if TYPE_CHECKING:
    from gateway.metrics import Metrics


class TargetGauges:
    """Shows what was reported last; a target that is not in it is not exported any more. As with every metric, those
    beyond `metrics.SERIES_PER_FAMILY` share one series.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._available = metrics.gauge(
            "tallygate_target_available", "Whether new calls are sent to the target: 1 or 0.", ("upstream", "target")
        )
        self._in_flight = metrics.gauge(
            "tallygate_target_in_flight", "Calls that have a connection to the target.", ("upstream", "target")
        )
        self._latency = metrics.gauge(
            "tallygate_target_latency_seconds",
            "What calls to the target took lately, to the last byte: the median of each connection's last one.",
            ("upstream", "target"),
        )
        self._shown: set[tuple[str, str]] = set()

    def show(self, reports: Iterable[UpstreamReport]) -> None:
        """These are all there are."""
        gone = self._shown
        self._shown = set()
        for upstream in reports:
            for target in upstream.targets:
                names = upstream.name, target.name
                called = target.weight > 0 and (upstream.panics or target.health in ("healthy", "unknown"))
                latency = math.nan if target.latency_seconds is None else target.latency_seconds
                self._set(names, called, target.in_flight, latency)
                self._shown.add(names)
        for names in gone - self._shown:
            self._set(names, math.nan, math.nan, math.nan)

    def _set(self, names: tuple[str, str], available: float, in_flight: float, latency: float) -> None:
        self._available.labels(*names).set(available)
        self._in_flight.labels(*names).set(in_flight)
        self._latency.labels(*names).set(latency)
