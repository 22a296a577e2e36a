"""Shedding: one spike refuses nobody, lasting lag refuses more and more, and calm lets everybody in again."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.background import Background
from gateway.downstream.shedding import CALM, STEPS, Shedding, SheddingOptions
from gateway.metrics import Metrics
from gateway.options import FROM_FILE

LATE, BETWEEN, CALM_LAG = 0.11, 0.08, 0.01


def shedding(**block: Any) -> Shedding:
    options = SheddingOptions.model_validate({"lag": "100ms", "interval": "1s", **block}, context=FROM_FILE)
    return Shedding(options, Metrics(None), Random(0))


def last(made: Shedding, lag: float, seconds: float, start: float = 0.0) -> float:
    """The same lag for so long, observed ten times a second; when it ends."""
    times = [start + step / 10 for step in range(1 + round(seconds * 10))]
    for now in times:
        made.observe(lag, now)
    return times[-1]


def test_one_spike_is_no_overload() -> None:
    made = shedding()
    for spike in (0.2, 5.0, 60.0):
        made.observe(CALM_LAG, 100.0)
        made.observe(spike, 100.0 + spike)
        made.observe(CALM_LAG, 100.1 + spike)
        assert made.share == 0.0


def test_lag_that_lasts_for_the_interval_is() -> None:
    made = shedding()
    now = last(made, LATE, 0.9)
    assert made.share == 0.0
    made.observe(LATE, now + 0.1)
    assert made.share == pytest.approx(0.09)


def test_the_share_grows_faster_and_faster_up_to_its_bound() -> None:
    made = shedding(max_share="50%")
    grew: list[float] = []
    before = 0.0
    for step in range(20_000):
        made.observe(LATE, step / 1000)
        if made.share > before:
            grew.append(step / 1000)
            before = made.share
    pauses = [later - earlier for earlier, later in pairwise(grew)]
    assert len(grew) == STEPS
    assert made.share == 0.5
    assert pauses == [pytest.approx(1.0 / (nth + 1) ** 0.5, abs=0.002) for nth in range(STEPS - 1)]


def test_growth_begins_slowly_each_time() -> None:
    made = shedding()
    now = last(made, BETWEEN, 0.0, last(made, LATE, 4.0))
    share = made.share
    now = last(made, LATE, 1.0, now)
    assert made.share == pytest.approx(share + 0.09)
    last(made, LATE, 0.9, now)
    assert made.share == pytest.approx(share + 0.09)


def test_what_lies_between_changes_nothing() -> None:
    made = shedding()
    now = last(made, LATE, 2.5)
    share = made.share
    assert share > 0.0
    last(made, BETWEEN, 60.0, now)
    assert made.share == share


def test_calm_takes_it_back_step_by_step() -> None:
    made = shedding()
    now = last(made, LATE, 3.0)
    steps = round(made.share / 0.09)
    for step in range(steps, 0, -1):
        assert made.share == pytest.approx(0.09 * step)
        now = last(made, CALM_LAG, 1.0, now)
    assert made.share == 0.0


def test_calm_must_last_as_well() -> None:
    made = shedding()
    now = last(made, LATE, 3.0)
    share = made.share
    for _ in range(20):
        now = last(made, CALM_LAG, 0.8, now)
        now = last(made, BETWEEN, 0.1, now)
    assert made.share == share


lags = st.lists(st.tuples(st.sampled_from([LATE, BETWEEN, CALM_LAG, 7.0]), st.floats(0.0, 1.5)), max_size=100)


@given(lags)
def test_the_share_moves_only_after_an_interval_on_one_side(steps: list[tuple[float, float]]) -> None:
    made, now, side_began, side = shedding(), 0.0, 0.0, 0
    for lag, pause in steps:
        now += pause
        before = made.share
        here = 1 if lag > 0.1 else -1 if lag < 0.1 * CALM else 0
        if here != side:
            side, side_began = here, now
        made.observe(lag, now)
        assert 0.0 <= made.share <= 0.9
        if made.share != before:
            assert abs(made.share - before) == pytest.approx(0.09)
            assert (made.share > before) == (side > 0)
            assert side != 0
            assert now - side_began >= 0.999


@given(st.integers(0, STEPS))
def test_it_refuses_the_share_it_says(step: int) -> None:
    made = shedding()
    made._go_to(step)
    refused = sum(made.refuses() for _ in range(2000))
    assert refused / 2000 == pytest.approx(made.share, abs=0.05)
    assert made._shed.value == refused


def test_the_refusal_asks_to_wait_until_it_may_be_over() -> None:
    made = shedding()
    last(made, LATE, 3.0)
    problem = made.problem()
    assert (problem.status, problem.slug) == (503, "overloaded")
    assert problem.headers == {"retry-after": str(round(made.share / 0.09))}


def test_beginning_and_end_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    made = shedding()
    now = last(made, LATE, 5.0)
    last(made, CALM_LAG, 60.0, now)
    assert [record.getMessage() for record in caplog.records] == [
        "overload: requests are refused",
        "overload: it is over, nothing is refused any more",
    ]


async def test_a_real_event_loop_that_cannot_keep_up_is_seen() -> None:
    made = shedding(lag="20ms", interval="500ms")
    background, loop = Background(), asyncio.get_running_loop()
    calm = asyncio.Event()

    def observe(lag: float) -> None:
        made.observe(lag, loop.time())
        calm.clear() if made.share else calm.set()

    background.measure_lag(observe, 0.01)
    give_up_at = loop.time() + 10.0
    while not made.share and loop.time() < give_up_at:
        time.sleep(0.04)  # noqa: ASYNC251 - this is the trouble
        await asyncio.sleep(0)
    assert made.share > 0.0
    async with asyncio.timeout(10.0):
        await calm.wait()
    await background.stop()


@pytest.mark.parametrize("block", [{"lag": "0s"}, {"interval": "400ms"}, {"max_share": "0%"}, {"max_share": "101%"}])
def test_what_cannot_be(block: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        shedding(**block)


def test_other_options_take_over_at_the_step_that_was_reached() -> None:
    before, after = shedding(), shedding(max_share="50%")
    last(before, LATE, 3.0)
    after.inherit(before)
    assert after.share == pytest.approx(before.share / 0.9 * 0.5)
    assert last(after, CALM_LAG, 60.0) == 60.0
    assert after.share == 0.0
    assert before.share > 0.0, "it serves on, should the reload be refused"
