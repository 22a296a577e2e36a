"""Readings: the numbers of a few metrics, of all processes of a node, without a look at all the others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from gateway.cells import CellsReader, SeriesRecord


class Source(NamedTuple):
    """The cells of one process slot: how it is called, its file, and whether a process lives in it now."""

    process: str
    path: Path
    alive: bool


class Reading(NamedTuple):
    """One series of one process: the values of its labels, and its cells as they are now (`cells.FamilyRecord`)."""

    process: str
    metric: str
    values: tuple[str, ...]
    cells: Sequence[float]


class _Followed:
    """The series in one file that are wanted; each is looked for once, when it has come to be."""

    def __init__(self, path: Path) -> None:
        self.reader = CellsReader(path)
        self.wanted: list[SeriesRecord] = []
        self._list = self.reader.series
        self._seen = 0

    def follow(self, metrics: Collection[str]) -> None:
        series = self.reader.series
        if series is not self._list:  # the file was replaced
            self._list, self._seen, self.wanted = series, 0, []
        families = self.reader.families
        self.wanted += [each for each in series[self._seen :] if families[each.family].name in metrics]
        self._seen = len(series)


class Readings:
    """Reads what processes count while they count. A gauge of a process that is gone is not read."""

    def __init__(self, sources: Callable[[], Iterable[Source]], metrics: Collection[str]) -> None:
        """`sources` is asked at every look; `metrics` are the names of those that are wanted."""
        self._sources = sources
        self._metrics = frozenset(metrics)
        self._followed: dict[Path, _Followed] = {}

    def look(self) -> Iterator[Reading]:
        """All series of the metrics, as they are now."""
        sources = list(self._sources())
        self._followed = {each.path: self._followed.get(each.path) or _Followed(each.path) for each in sources}
        for source in sources:
            followed = self._followed[source.path]
            numbers = followed.reader.read()
            if numbers is None:
                continue
            followed.follow(self._metrics)
            for series in followed.wanted:
                family = followed.reader.families[series.family]
                if source.alive or family.kind != "gauge":
                    cells = numbers[series.first : series.first + family.width].tolist()
                    yield Reading(source.process, family.name, series.values, cells)
