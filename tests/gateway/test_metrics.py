"""Metrics: what is counted is exported, exactly, whatever dies in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gateway.cells import CELLS_START, DEFINITIONS_START, SIZE, CellsReader
from gateway.exposition import Exposition, Source
from gateway.metrics import LONGEST_VALUE, OTHER, SERIES_PER_FAMILY, Metrics

Key = tuple[str, tuple[tuple[str, str], ...]]


def scrape(*sources: Source) -> dict[Key, float]:
    """What a Prometheus server would read."""
    page = Exposition(lambda: sources).render().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_counter_gauge_and_histogram_are_exported(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "a")
    metrics.counter("served_total", "Requests served.", ("route", "status")).labels("books", "200").inc(3)
    metrics.gauge("open_connections", "Connections.").set(7)
    histogram = metrics.histogram("wait_seconds", "Waiting.", bounds=(0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 5.0):
        histogram.observe(value)
    assert histogram.count == 4
    page = scrape(Source("0", tmp_path / "a", True))
    assert page["served_total", (("route", "books"), ("status", "200"))] == 3
    assert page["open_connections", (("process", "0"),)] == 7
    assert page["wait_seconds_bucket", (("le", "0.1"),)] == 2
    assert page["wait_seconds_bucket", (("le", "1.0"),)] == 3
    assert page["wait_seconds_bucket", (("le", "+Inf"),)] == 4
    assert page["wait_seconds_count", ()] == 4
    assert page["wait_seconds_sum", ()] == pytest.approx(5.65)


def test_processes_are_summed_and_gauges_are_not(tmp_path: Path) -> None:
    for index, name in enumerate("ab"):
        metrics = Metrics(tmp_path / name)
        if name == "b":
            metrics.counter("only_b_total", "Moves every cell of b by one.")
        metrics.counter("served_total", "Served.").inc(10 + index)
        metrics.gauge("depth", "Depth.").set(index)
        metrics.histogram("wait_seconds", "Waiting.", bounds=(1.0,)).observe(index)
    sources = [Source(name, tmp_path / name, name == "a") for name in "ab"]
    page = scrape(*sources)
    assert page["served_total", ()] == 21
    assert page["wait_seconds_count", ()] == 2
    assert page["depth", (("process", "a"),)] == 0
    assert ("depth", (("process", "b"),)) not in page


def test_a_replacement_goes_on_counting_and_measures_anew(tmp_path: Path) -> None:
    first = Metrics(tmp_path / "a")
    first.counter("served_total", "Served.", ("route",)).labels("books").inc(5)
    first.gauge("depth", "Depth.", ("shard",)).labels("1").set(9)
    second = Metrics(tmp_path / "a")
    source = Source("0", tmp_path / "a", True)
    assert ("depth", (("process", "0"), ("shard", "1"))) not in scrape(source)
    family = second.gauge("depth", "Depth.", ("shard",))
    assert family.labels("1").value == 0
    counter = second.counter("served_total", "Served.", ("route",)).labels("books")
    assert counter.value == 5
    counter.inc()
    assert scrape(source)["served_total", (("route", "books"),)] == 6


def test_a_new_version_with_other_labels_does_not_break_the_page(tmp_path: Path) -> None:
    Metrics(tmp_path / "a").counter("served_total", "Served.").inc(5)
    Metrics(tmp_path / "a").counter("served_total", "Served.", ("route",)).labels("books").inc()
    assert scrape(Source("0", tmp_path / "a", True))["served_total", ()] == 5


def test_labels_are_bounded(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "a")
    family = metrics.counter("served_total", "Served.", ("path",))
    for number in range(SERIES_PER_FAMILY + 50):
        family.labels(f"/{number}").inc()
    page = scrape(Source("0", tmp_path / "a", True))
    assert page["served_total", (("path", OTHER),)] == 50
    assert page["tallygate_metrics_overflow_total", ()] == 50
    assert sum(value for (name, _), value in page.items() if name == "served_total") == SERIES_PER_FAMILY + 50


def test_a_full_file_is_survived(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "a")
    for number in range(8):
        family = metrics.histogram(f"wait{number}_seconds", "Waiting.", ("path",))
        for path in range(SERIES_PER_FAMILY):
            family.labels(str(path)).observe(1.0)
    assert (tmp_path / "a").stat().st_size == SIZE
    page = scrape(Source("0", tmp_path / "a", True))
    assert page["wait0_seconds_count", (("path", "0"),)] == 1
    assert page["tallygate_metrics_overflow_total", ()] > 0
    kept = sum(value for (name, _), value in page.items() if name.endswith("_seconds_count"))
    assert kept + page["tallygate_metrics_overflow_total", ()] == 8 * SERIES_PER_FAMILY
    assert Metrics(tmp_path / "a").histogram("wait0_seconds", "Waiting.", ("path",)).labels("0").count == 1


@given(st.text())
@settings(max_examples=300)
def test_any_text_can_be_a_label_value(text: str) -> None:
    metrics = Metrics(None)
    metrics.counter("served_total", "Served.", ("path",)).labels(text).inc()
    metrics.counter("served_total", "Served.", ("path",)).labels(text).inc()
    assert metrics.counter("served_total", "Served.", ("path",)).labels(text).value == 2


def test_any_label_value_is_exported_in_one_line(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "a")
    texts = ['a"b', "a\nb", "a\\b", "\udc80", "é", "x" * 500]
    for text in texts:
        metrics.counter("served_total", "Served.", ("path",)).labels(text).inc()
    names = {dict(labels)["path"] for name, labels in scrape(Source("0", tmp_path / "a", True)) if "served" in name}
    assert names == {'a"b', "a\nb", "a\\b", "?", "é", "x" * LONGEST_VALUE}


def test_wrong_definitions_are_refused() -> None:
    metrics = Metrics(None)
    metrics.counter("served_total", "Served.", ("route",))
    with pytest.raises(ValueError, match="defined twice"):
        metrics.counter("served_total", "Served.")
    with pytest.raises(ValueError, match="_total"):
        metrics.counter("served", "Served.")
    with pytest.raises(ValueError, match="not a metric name"):
        metrics.gauge("9lives", "Lives.")
    with pytest.raises(ValueError, match="label"):
        metrics.gauge("lives", "Lives.", ("a b",))
    with pytest.raises(ValueError, match="process"):
        metrics.gauge("lives", "Lives.", ("process",))
    with pytest.raises(ValueError, match="rise"):
        metrics.histogram("wait_seconds", "Waiting.", bounds=(2.0, 1.0))
    with pytest.raises(ValueError, match="label values"):
        metrics.counter("served_total", "Served.", ("route",)).labels("a", "b")


@given(st.integers(DEFINITIONS_START, DEFINITIONS_START + 400), st.binary(min_size=1, max_size=60))
@settings(max_examples=200, deadline=None)
def test_a_damaged_file_is_read_up_to_the_damage_and_written_on(
    tmp_path_factory: pytest.TempPathFactory, offset: int, damage: bytes
) -> None:
    path = tmp_path_factory.mktemp("cells") / "a"
    metrics = Metrics(path)
    for number in range(5):
        metrics.counter(f"c{number}_total", "A counter.").inc()
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(damage)
    assert all(value in (0, 1) for value in scrape(Source("0", path, True)).values())
    for number in range(5):
        Metrics(path).counter(f"c{number}_total", "A counter.").inc()
    page = scrape(Source("0", path, True))
    assert all(page[f"c{number}_total", ()] in (1, 2) for number in range(5))


def test_a_foreign_or_missing_file(tmp_path: Path) -> None:
    assert CellsReader(tmp_path / "none").read() is None
    (tmp_path / "a").write_text("not ours")
    reader = CellsReader(tmp_path / "a")
    assert reader.read() is None
    Metrics(tmp_path / "a").counter("served_total", "Served.").inc()
    assert reader.read() is not None
    assert [family.name for family in reader.families] == ["tallygate_metrics_overflow_total", "served_total"]
    assert (tmp_path / "a").stat().st_size > CELLS_START
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


_COUNTING = """
import sys
from pathlib import Path
from gateway.metrics import Metrics
counter = Metrics(Path(sys.argv[1])).counter("served_total", "Served.")
while True:
    counter.inc()
    print(int(counter.value), flush=True)
"""


def test_nothing_counted_is_lost_by_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "a"
    last = 0
    for _ in range(4):
        child = subprocess.Popen([sys.executable, "-c", _COUNTING, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        first = int(child.stdout.readline())
        assert first in (last + 1, last + 2)  # the one after the last line seen may have been counted and not printed
        time.sleep(0.05)
        os.kill(child.pid, signal.SIGKILL)
        lines = child.stdout.read().splitlines()
        child.stdout.close()
        child.wait()
        last = int(lines[-1])
        assert scrape(Source("0", path, False))["served_total", ()] in (last, last + 1)
