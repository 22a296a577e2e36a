"""Window: holds what a list of everything that happened would hold, in memory that does not grow."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.window import BUCKETS, Window

KINDS = 3
pauses = st.sampled_from([0.0, 0.3, 0.5, 1.0]) | st.floats(0.0, 30.0)  # in buckets
steps = st.lists(st.tuples(pauses, st.integers(0, KINDS - 1)), max_size=60)


def happen(window: Window, kind: int, now: float) -> None:
    if now >= window.ends_at:
        window.turn(now)
    window.totals[kind] += 1


@given(st.floats(0.01, 60.0), st.floats(0.0, 1e6), steps)
def test_it_holds_the_window_and_at_most_a_bucket_more(seconds: float, start: float, steps: list) -> None:
    window, now, all_of_it = Window(seconds, KINDS), start, []
    for pause, kind in steps:
        now += pause * seconds / BUCKETS
        happen(window, kind, now)
        all_of_it.append((now, kind))
        width = seconds / BUCKETS
        for each in range(KINDS):
            times = [time for time, what in all_of_it if what == each]
            held = window.held(each, now)
            assert held == sum(time // width >= now // width - BUCKETS for time in times)
            assert sum(now - time <= seconds * 0.999 for time in times) <= held
            assert held <= sum(now - time <= seconds * 1.101 for time in times)


def test_a_steady_stream_is_held_evenly() -> None:
    """Two events in each bucket of a second: those of this bucket and of the ten before."""
    window = Window(10.0, KINDS)
    for step in range(200):
        happen(window, 0, 0.25 + step / 2)
        assert window.held(0, 0.25 + step / 2) == min(step + 1, 20 + 1 + step % 2)


def test_nothing_is_held_after_a_long_silence() -> None:
    window = Window(10.0, KINDS)
    happen(window, 0, 5.0)
    assert window.held(0, 14.9) == 1
    assert window.held(0, 1e9) == 0


def test_what_was_cleared_is_forgotten_and_what_follows_is_not() -> None:
    window = Window(10.0, KINDS)
    happen(window, 1, 5.0)
    window.clear()
    assert window.held(1, 5.0) == 0
    happen(window, 1, 5.0)
    assert [window.held(kind, 6.0) for kind in range(KINDS)] == [0, 1, 0]


def test_its_memory_does_not_grow() -> None:
    window = Window(1.0, KINDS)

    def size() -> int:
        return sys.getsizeof(window._marks) + len(window._marks)

    happen(window, 0, 0.0)
    before = size()
    for turn in range(10_000):
        happen(window, 0, turn * 0.01)
    assert size() == before
