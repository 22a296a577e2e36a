"""History: rates between samples, the time within which most requests ended, and nothing without a bound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.status import MOST_ROUTES, SAMPLES
from gateway.metrics import SECONDS, Metrics
from gateway.node import history
from gateway.node.history import DURATIONS, REQUESTS, History, quantile
from gateway.readings import Readings, Source


class Node:
    """Two processes that count, and a clock that a test sets."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        paths = [directory / "0", directory / "1"]
        self._processes = [Metrics(path) for path in paths]
        sources = [Source(path.name, path, True) for path in paths]
        self.history = History(Readings(lambda: sources, (REQUESTS, DURATIONS)))
        self.now = 100.0
        monkeypatch.setattr(history, "get_running_loop", lambda: self)

    def time(self) -> float:
        return self.now

    def serve(self, route: str, status: int, times: int, seconds: float = 0.001) -> None:
        for process in self._processes:
            process.counter(REQUESTS, "Requests.", ("route", "status")).labels(route, str(status)).inc(times / 2)
            took = process.histogram(DURATIONS, "Took.", ("route",)).labels(route)
            for _ in range(times // 2):
                took.observe(seconds)

    def take(self, *routes: str, after: float = 5.0) -> None:
        self.now += after
        self.history.take(routes)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(tmp_path, monkeypatch)


def test_rates_are_of_all_processes_and_of_the_time_that_really_passed(node: Node) -> None:
    node.serve("a", 200, 1000)
    node.take("a", "b")
    assert node.history.traffic()["a"].requests == []
    node.serve("a", 200, 40)
    node.serve("a", 404, 6)
    node.serve("a", 503, 4)
    node.take("a", "b")
    node.serve("a", 200, 50)
    node.take("a", "b", after=10.0)
    assert node.history.traffic()["a"].requests == [10.0, 5.0]
    assert node.history.traffic()["a"].errors == [0.8, 0.0]
    assert node.history.traffic()["b"].requests == [0.0, 0.0]


def test_a_client_that_left_is_no_error(node: Node) -> None:
    node.take("a")
    node.serve("a", 0, 10)
    node.take("a")
    assert (node.history.traffic()["a"].requests, node.history.traffic()["a"].errors) == ([2.0], [0.0])


def test_the_latency_is_of_the_last_minute(node: Node) -> None:
    node.take("a")
    node.serve("a", 200, 100, seconds=20.0)
    for _ in range(12):
        node.take("a")
    latency = node.history.traffic()["a"].p95_seconds
    assert latency is not None
    assert 10.0 < latency <= 30.0
    node.serve("a", 200, 100, seconds=0.2)
    node.take("a")
    latency = node.history.traffic()["a"].p95_seconds
    assert latency is not None
    assert 0.1 < latency <= 0.25
    for _ in range(12):
        node.take("a")
    assert node.history.traffic()["a"].p95_seconds is None


def test_it_is_bounded_and_forgets_what_is_gone(node: Node) -> None:
    routes = [f"r{number}" for number in range(MOST_ROUTES + 10)]
    for _ in range(SAMPLES + 10):
        node.take(*routes)
    traffic = node.history.traffic()
    assert list(traffic) == routes[:MOST_ROUTES]
    assert {len(each.requests) for each in traffic.values()} == {SAMPLES}
    node.take("other")
    assert list(node.history.traffic()) == ["other"]


def test_nothing_is_known_before_the_first_sample(node: Node) -> None:
    assert node.history.traffic() == {}


@given(st.lists(st.integers(0, 50), min_size=len(SECONDS) + 1, max_size=len(SECONDS) + 1), st.sampled_from([0.5, 0.95]))
def test_a_quantile_lies_where_the_requests_do(counts: list[int], share: float) -> None:
    found = quantile(share, counts)
    observed: list[Any] = [place for place, count in enumerate(counts) for _ in range(count)]
    if not observed:
        assert found is None
        return
    place = observed[max(0, -(-int(share * 100) * len(observed) // 100) - 1)]
    assert found is not None
    bounds = (0.0, *SECONDS, SECONDS[-1])
    assert bounds[place] <= found <= bounds[place + 1]
