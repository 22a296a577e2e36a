"""Exposition: the cells of all processes as one Prometheus page. The only door to prometheus-client.

Counters and histograms are summed over the processes, the dead ones' included, so that no replacement looks like a
reset. A gauge belongs to one process: it is shown for each living one, under the label `process`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Final

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from gateway.cells import CellsReader, FamilyRecord
from gateway.readings import Source

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4


class Exposition(Collector):
    """All metrics of a node."""

    def __init__(self, sources: Callable[[], Iterable[Source]]) -> None:
        """`sources` is asked at every scrape."""
        self._sources = sources
        self._readers: dict[Path, CellsReader] = {}

    def render(self) -> bytes:
        """The page in Prometheus' text format 0.0.4."""
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        """prometheus-client's side of it."""
        totals: dict[str, _Total] = {}
        sources = list(self._sources())
        self._readers = {source.path: self._readers.get(source.path) or CellsReader(source.path) for source in sources}
        for source in sources:
            reader = self._readers[source.path]
            numbers = reader.read()
            if numbers is None:
                continue
            for series in reader.series:
                family = reader.families[series.family]
                if family.kind == "gauge" and not source.alive:
                    continue
                total = totals.get(family.name)
                if total is None:
                    total = totals[family.name] = _Total(family)
                # A process of another version may know the metric in another shape: the first one seen is shown.
                if total.family.labels == family.labels and total.family.bounds == family.bounds:
                    values = (*series.values, source.process) if family.kind == "gauge" else series.values
                    total.add(values, numbers[series.first : series.first + family.width])
        for name in sorted(totals):
            yield totals[name].metric()


class _Total:
    """One metric over all processes."""

    def __init__(self, family: FamilyRecord) -> None:
        self.family = family
        self._cells: dict[tuple[str, ...], list[float]] = {}

    def add(self, values: tuple[str, ...], cells: memoryview[float]) -> None:
        known = self._cells.get(values)
        self._cells[values] = list(cells) if known is None else [a + b for a, b in zip(known, cells, strict=True)]

    def metric(self) -> Metric:
        family = self.family
        metric = Metric(family.name.removesuffix("_total"), family.doc, family.kind)
        if family.kind == "histogram":
            edges = [*map(floatToGoString, family.bounds), "+Inf"]
            for values, cells in sorted(self._cells.items()):
                metric.samples.extend(_histogram(family, edges, values, cells))
            return metric
        names = (*family.labels, "process") if family.kind == "gauge" else family.labels
        metric.samples.extend(
            Sample(family.name, dict(zip(names, values, strict=True)), cells[0])
            for values, cells in sorted(self._cells.items())
            if not math.isnan(cells[0])  # a gauge that this process has not set yet
        )
        return metric


def _histogram(family: FamilyRecord, edges: list[str], values: tuple[str, ...], cells: list[float]) -> Iterator[Sample]:
    labels = dict(zip(family.labels, values, strict=True))
    buckets = list(accumulate(cells[1:]))
    for edge, bucket in zip(edges, buckets, strict=True):
        yield Sample(f"{family.name}_bucket", {**labels, "le": edge}, bucket)
    yield Sample(f"{family.name}_count", labels, buckets[-1])
    yield Sample(f"{family.name}_sum", labels, cells[0])
