"""Readings: some metrics of several processes, followed while they grow, die and are replaced."""

from __future__ import annotations

from pathlib import Path

from gateway.metrics import Metrics
from gateway.readings import Readings, Source

WANTED = ("served_total", "open", "took_seconds")


def read(readings: Readings) -> dict[tuple[str, ...], list[float]]:
    return {(each.process, each.metric, *each.values): list(each.cells) for each in readings.look()}


def test_only_what_is_wanted_is_read_of_all_processes(tmp_path: Path) -> None:
    one, two = Metrics(tmp_path / "1"), Metrics(tmp_path / "2")
    one.counter("served_total", "Served.", ("route",)).labels("a").inc(3)
    one.counter("other_total", "Other.").inc()
    two.gauge("open", "Open.").set(7)
    two.histogram("took_seconds", "Took.", ("route",), bounds=(1.0,)).labels("a").observe(0.5)
    sources = [Source("1", tmp_path / "1", True), Source("2", tmp_path / "2", True), Source("3", tmp_path / "3", True)]
    assert read(Readings(lambda: sources, WANTED)) == {
        ("1", "served_total", "a"): [3.0],
        ("2", "open"): [7.0],
        ("2", "took_seconds", "a"): [0.5, 1.0, 0.0],
    }


def test_what_comes_to_be_later_is_read_too(tmp_path: Path) -> None:
    sources = [Source("1", tmp_path / "1", True)]
    readings = Readings(lambda: sources, WANTED)
    assert read(readings) == {}
    served = Metrics(tmp_path / "1").counter("served_total", "Served.", ("route",))
    served.labels("a").inc()
    assert read(readings) == {("1", "served_total", "a"): [1.0]}
    served.labels("a").inc()
    served.labels("b").inc()
    assert read(readings) == {("1", "served_total", "a"): [2.0], ("1", "served_total", "b"): [1.0]}
    sources.clear()
    assert read(readings) == {}


def test_of_a_process_that_is_gone_what_it_counted_is_read_and_no_gauge(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "1")
    metrics.counter("served_total", "Served.", ("route",)).labels("a").inc()
    metrics.gauge("open", "Open.").set(7)
    assert read(Readings(lambda: [Source("1", tmp_path / "1", False)], WANTED)) == {("1", "served_total", "a"): [1.0]}


def test_a_file_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "1"
    readings = Readings(lambda: [Source("1", path, True)], WANTED)
    Metrics(path).counter("served_total", "Served.", ("route",)).labels("a").inc()
    assert read(readings) == {("1", "served_total", "a"): [1.0]}
    path.unlink()
    Metrics(path).counter("served_total", "Served.", ("route",)).labels("b").inc(2)
    assert read(readings) == {("1", "served_total", "b"): [2.0]}
