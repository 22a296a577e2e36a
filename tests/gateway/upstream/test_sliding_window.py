"""Sliding window: it counts what ended lately, to within a slot."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.sliding_window import SLOTS, SlidingWindow

ended = st.lists(st.tuples(st.booleans(), st.floats(0, 5), st.floats(0, 20)), max_size=60)


@given(ended, st.floats(0, 40), st.floats(1, 60))
def test_it_agrees_with_counting_all_to_within_a_slot(
    calls: list[tuple[bool, float, float]], later: float, long: float
):
    window = SlidingWindow(long)
    now = 1000.0
    seen = []
    for ok, seconds, after in calls:
        now += after
        window.add(ok, seconds, now)
        seen.append((now, ok, seconds))
    now += later
    totals = window.totals(now)
    inner = [call for call in seen if call[0] > now - long * (1 - 1 / SLOTS)]
    outer = [call for call in seen if call[0] > now - long * (1 + 1e-9)]
    assert len(inner) <= totals.calls <= len(outer)
    assert sum(not ok for _, ok, _ in inner) <= totals.failed <= sum(not ok for _, ok, _ in outer)
    assert totals.seconds <= sum(seconds for _, ok, seconds in outer if ok) + 1e-6


def test_the_mean_is_of_those_that_succeeded():
    window = SlidingWindow(10.0)
    for ok, seconds in ((True, 1.0), (True, 3.0), (False, 100.0)):
        window.add(ok, seconds, 5.0)
    assert window.totals(5.0).mean_seconds == pytest.approx(2.0)
    window.clear()
    assert window.totals(5.0) == (0, 0, 0.0)
    assert window.totals(5.0).mean_seconds == 0.0
