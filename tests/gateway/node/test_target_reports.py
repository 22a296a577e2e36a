"""Target reports: what processes say of their targets is put together, and one that says nothing holds nobody up."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import pytest

from gateway.background import Background
from gateway.node.edge_process import EdgeProcess
from gateway.node.target_reports import TargetReports, merged
from gateway.upstream.options import UpstreamOptions
from gateway.upstream.report import TargetReport, UpstreamReport

ONE, TWO = "http://a:80", "http://b:80"
BOOKS = {"books": UpstreamOptions.model_validate({"targets": [ONE, TWO], "balancer": "least_connections"})}


def said(*targets: TargetReport, breaker: str | None = None, panics: bool = False) -> list[UpstreamReport]:
    return [UpstreamReport("books", list(targets), breaker, panics)]


def test_the_worst_is_shown_with_what_each_process_says() -> None:
    ill = TargetReport(ONE, 2, "unhealthy", "probe: status 503", "eu", "half-open", 1, 0.3)
    well = TargetReport(ONE, 2, "healthy", "", "eu", "closed", 4, 0.1)
    (books,) = merged(BOOKS, {"edge-0": said(well), "edge-1": said(ill, panics=True), "edge-2": said(well)})
    assert (books.name, books.balancer, books.panicking) == ("books", "least_connections", ["edge-1"])
    (target,) = books.targets
    assert (target.name, target.weight, target.zone) == (ONE, 2, "eu")
    assert (target.health, target.reason, target.agreeing) == ("unhealthy", "probe: status 503", 1)
    assert (target.breaker, target.in_flight) == ("half-open", 9)
    assert target.latency_seconds == pytest.approx((0.1 + 0.3 + 0.1) / 3)
    assert target.processes == {"edge-0": well, "edge-1": ill, "edge-2": well}


@pytest.mark.parametrize(
    ("states", "shown"),
    [
        (["healthy", "healthy"], "healthy"),
        (["unknown", "healthy"], "healthy"),
        (["unknown", "unknown"], "unknown"),
        (["ejected", "unhealthy"], "ejected"),
        (["draining", "healthy"], "draining"),
    ],
)
def test_what_counts_as_worse(states: list[Any], shown: str) -> None:
    (books,) = merged(BOOKS, {f"edge-{n}": said(TargetReport(ONE, 1, state)) for n, state in enumerate(states)})
    assert books.targets[0].health == shown


@pytest.mark.parametrize(
    ("breakers", "shown"),
    [
        ([None, None], None),
        ([None, "closed"], "closed"),
        (["closed", "half-open"], "half-open"),
        (["half-open", "open"], "open"),
    ],
)
def test_which_circuit_counts_as_worse(breakers: list[str | None], shown: str | None) -> None:
    reports = {f"edge-{n}": said(breaker=breaker) for n, breaker in enumerate(breakers)}
    assert merged(BOOKS, reports)[0].breaker == shown


def test_where_nobody_says_anything_the_targets_are_those_of_the_configuration() -> None:
    (books,) = merged(BOOKS, {"edge-0": None})
    assert [(target.name, target.health) for target in books.targets] == [(ONE, "unknown"), (TWO, "unknown")]


def test_targets_that_only_one_process_has_found_are_shown() -> None:
    (books,) = merged(
        BOOKS, {"edge-0": said(TargetReport(ONE, 1, "healthy")), "edge-1": said(TargetReport(TWO, 1, "healthy"))}
    )
    assert [(target.name, list(target.processes)) for target in books.targets] == [(ONE, ["edge-0"]), (TWO, ["edge-1"])]


def test_an_upstream_that_a_reload_has_taken_away_is_not_shown() -> None:
    assert merged({}, {"edge-0": said()}) == []


class Edge:
    """A process that answers after a while, and counts how often it was asked."""

    def __init__(self, name: str, answer: list[UpstreamReport] | None) -> None:
        self.child = self
        self.name = name
        self.asked = 0
        self._answer = answer

    async def report(self) -> list[UpstreamReport] | None:
        self.asked += 1
        await asyncio.sleep(0.05)
        return self._answer


async def test_many_who_ask_cost_no_more_than_one() -> None:
    background = Background()
    edges = [Edge("edge-0", said()), Edge("edge-1", None)]
    reports = TargetReports(cast("list[EdgeProcess]", edges), background)
    began = time.monotonic()
    impatient = asyncio.create_task(reports.collect())
    await asyncio.sleep(0)
    impatient.cancel()
    answers = await asyncio.gather(*[reports.collect() for _ in range(20)])
    assert all(answer == {"edge-0": said(), "edge-1": None} for answer in answers)
    assert time.monotonic() - began < 1.0
    await reports.collect()
    assert [edge.asked for edge in edges] == [1, 1]
    await background.stop()


async def test_an_answer_is_not_given_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.node.target_reports.FRESH_SECONDS", 0.0)
    background = Background()
    edge = Edge("edge-0", said())
    reports = TargetReports(cast("list[EdgeProcess]", [edge]), background)
    await reports.collect()
    await reports.collect()
    assert edge.asked == 2
    await background.stop()
