"""Metrics: counters, gauges and histograms, cheap enough to be counted on every request.

The values live in cells of our own (`gateway.cells`) rather than in prometheus-client's value classes: several
processes share one port and one `/metrics`, and a process that is killed and replaced must go on counting where the
other stopped. prometheus-client still writes the exposition (`gateway.exposition`).

Call from one thread, the event loop's: an increment is a read and a write.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Generic, TypeAlias, TypeVar, overload

from gateway.cells import SCRAP, Cells, FamilyRecord

Labels: TypeAlias = tuple[str, *tuple[str, ...]]
"""One or more label names."""

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds for durations of requests."""

SERIES_PER_FAMILY: Final = 1000
LONGEST_VALUE: Final = 128
OTHER: Final = "other"
"""The value of every label of the series that stands for all those beyond the limit."""

_METRIC_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")
_LABEL_NAME: Final = re.compile(r"(?!__)[a-z_][a-z0-9_]*")


class Counter:
    """A number that only grows: the one at `cell` of the process's numbers."""

    __slots__ = ("_numbers", "cell")

    def __init__(self, numbers: memoryview[float], cell: int) -> None:
        self._numbers = numbers
        self.cell = cell

    def inc(self, n: float = 1.0) -> None:
        """Adds `n`, which is not negative."""
        self._numbers[self.cell] += n

    @property
    def value(self) -> float:
        """What this process slot has counted so far."""
        return self._numbers[self.cell]


class Gauge:
    """A number that goes up and down; it belongs to the process and is gone with it."""

    __slots__ = ("_cell", "_numbers")

    def __init__(self, numbers: memoryview[float], cell: int) -> None:
        self._numbers = numbers
        self._cell = cell
        numbers[cell] = 0.0

    def set(self, value: float) -> None:
        """Makes it `value`."""
        self._numbers[self._cell] = value

    def inc(self, n: float = 1.0) -> None:
        """Adds `n`, which may be negative."""
        self._numbers[self._cell] += n

    @property
    def value(self) -> float:
        """The value now."""
        return self._numbers[self._cell]


class GaugePart:
    """What one of several adds to a gauge: while a reload is under way there are two of what there is usually one."""

    __slots__ = ("_gauge", "_value")

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._value = 0.0

    def set(self, value: float) -> None:
        """Makes this part `value`; 0 takes it away."""
        self._gauge.inc(value - self._value)
        self._value = value


class Histogram:
    """How often a value fell into each of a row of ranges, and the sum of all values.

    The sum is at `cell` of the process's numbers, the counts behind it.
    """

    __slots__ = ("_numbers", "bounds", "cell")

    def __init__(self, numbers: memoryview[float], cell: int, bounds: tuple[float, ...]) -> None:
        self._numbers = numbers
        self.cell = cell
        self.bounds = bounds

    def observe(self, value: float) -> None:
        """Counts `value` in the first range whose upper bound is not below it."""
        numbers, cell = self._numbers, self.cell
        numbers[cell + 1 + bisect_left(self.bounds, value)] += 1.0
        numbers[cell] += value

    @property
    def count(self) -> float:
        """How many values were observed."""
        return sum(self._numbers[self.cell + 1 : self.cell + 2 + len(self.bounds)])

    @property
    def sum(self) -> float:
        """The sum of the observed values."""
        return self._numbers[self.cell]


S = TypeVar("S", Counter, Gauge, Histogram)


class Family(Generic[S]):
    """A metric with labels: one series per combination of values, up to a limit.

    Beyond it the series whose labels all say `other` takes the rest, and `tallygate_metrics_overflow_total` counts.
    """

    __slots__ = ("_cells", "_first", "_known", "_make", "_overflow", "_place", "_width")

    def __init__(
        self, cells: Cells, place: int | None, width: int, make: Callable[[int], S], overflow: Callable[[], None]
    ) -> None:
        self._known: dict[tuple[str, ...], S] = {}
        self._cells = cells
        self._place = place
        self._width = width
        self._make: Callable[[int], S] = make
        self._overflow = overflow
        self._first = {series.values: series.first for series in cells.series if series.family == place}

    def labels(self, *values: str) -> S:
        """The series of these label values, in the order of the label names. Raises ValueError for a wrong number.

        Keep the result where the values do not change from call to call.
        """
        series = self._known.get(values)
        return series if series is not None else self._new(values)

    def _new(self, values: tuple[str, ...]) -> S:
        if len(values) != self._width:
            raise ValueError(f"{len(values)} label values for {self._width} labels")
        # A value may be what a client sent: it is cut, and what UTF-8 cannot carry is replaced.
        values = tuple(value[:LONGEST_VALUE].encode("utf-8", "replace").decode() for value in values)
        other = (OTHER,) * self._width
        if values not in self._first and len(self._first) >= SERIES_PER_FAMILY and values != other:
            self._overflow()
            values = other
        if values not in self._known:
            self._known[values] = self._make(self._cell(values))
        return self._known[values]

    def _cell(self, values: tuple[str, ...]) -> int:
        if values not in self._first:
            first = None if self._place is None else self._cells.define_series(self._place, values)
            if first is None:
                self._overflow()
            self._first[values] = first or 0
        return self._first[values]


class Metrics:
    """All metrics of one process. Defining the same one again gives the same one back."""

    def __init__(self, path: Path | None) -> None:
        """Opens the cells in the file `path` and goes on from them; None keeps them in memory. Raises OSError."""
        self._cells = Cells(path)
        self._families: dict[str, tuple[FamilyRecord, Family[Any]]] = {}
        for series in self._cells.series:
            if self._cells.families[series.family].kind == "gauge":
                self._cells.numbers[series.first] = math.nan  # its process is gone, and with it what it measured
        self.numbers = self._cells.numbers
        """Every number of this process, for what counts many at once."""
        self._overflow: Callable[[], None] = lambda: None
        self._overflow = self.counter(
            "tallygate_metrics_overflow_total", "Uses of a series that stands for those beyond a limit."
        ).inc

    @overload
    def counter(self, name: str, doc: str) -> Counter: ...
    @overload
    def counter(self, name: str, doc: str, labels: Labels) -> Family[Counter]: ...
    def counter(self, name: str, doc: str, labels: tuple[str, ...] = ()) -> Counter | Family[Counter]:
        """A counter, its name ending in `_total`; with labels, the family of them. Raises ValueError."""
        if not name.endswith("_total"):
            raise ValueError(f"a counter's name ends in _total: {name!r}")
        numbers = self.numbers
        family = self._family(FamilyRecord(name, "counter", doc, labels, ()), lambda cell: Counter(numbers, cell))
        return family if labels else family.labels()

    @overload
    def gauge(self, name: str, doc: str) -> Gauge: ...
    @overload
    def gauge(self, name: str, doc: str, labels: Labels) -> Family[Gauge]: ...
    def gauge(self, name: str, doc: str, labels: tuple[str, ...] = ()) -> Gauge | Family[Gauge]:
        """A gauge; with labels, the family of them. Exported per process, with a label `process`. Raises ValueError."""
        if "process" in labels:
            raise ValueError(f"the label `process` of gauge {name!r} is added when it is exported")
        numbers = self.numbers
        family = self._family(FamilyRecord(name, "gauge", doc, labels, ()), lambda cell: Gauge(numbers, cell))
        return family if labels else family.labels()

    @overload
    def histogram(self, name: str, doc: str, *, bounds: tuple[float, ...] = SECONDS) -> Histogram: ...
    @overload
    def histogram(
        self, name: str, doc: str, labels: Labels, bounds: tuple[float, ...] = SECONDS
    ) -> Family[Histogram]: ...
    def histogram(
        self, name: str, doc: str, labels: tuple[str, ...] = (), bounds: tuple[float, ...] = SECONDS
    ) -> Histogram | Family[Histogram]:
        """A histogram with these upper bounds, rising; with labels, the family of them. Raises ValueError."""
        if not bounds or list(bounds) != sorted(set(bounds)) or not all(map(math.isfinite, bounds)):
            raise ValueError(f"the bounds of histogram {name!r} do not rise: {bounds}")
        if "le" in labels or len(bounds) + 2 > SCRAP:
            raise ValueError(f"histogram {name!r} has too many bounds, or a label `le`")
        numbers = self.numbers
        record = FamilyRecord(name, "histogram", doc, labels, tuple(map(float, bounds)))
        family = self._family(record, lambda cell: Histogram(numbers, cell, record.bounds))
        return family if labels else family.labels()

    def _family(self, record: FamilyRecord, make: Callable[[int], S]) -> Family[S]:
        known = self._families.get(record.name)
        if known is not None:
            if known[0] != record:
                raise ValueError(f"metric {record.name!r} is defined twice, in different ways")
            return known[1]
        if not _METRIC_NAME.fullmatch(record.name):
            raise ValueError(f"not a metric name: {record.name!r}")
        if len(set(record.labels)) != len(record.labels) or not all(map(_LABEL_NAME.fullmatch, record.labels)):
            raise ValueError(f"metric {record.name!r} has a label whose name is not valid: {record.labels}")
        families = self._cells.families
        place = families.index(record) if record in families else self._cells.define_family(record)
        family = Family(self._cells, place, len(record.labels), make, self._overflow)
        self._families[record.name] = (record, family)
        return family
