"""Retry budget: over no window are there more retries than it pays for, and none is refused that it could pay."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.retry_budget import WINDOW_SECONDS, RetryBudget

EXACTLY = 1e-6
"""For floating point."""

events = st.lists(
    st.tuples(st.sampled_from([0.0, 0.01, 0.5, 3.0, 9.0, 25.0]), st.integers(0, 20), st.integers(0, 20)), max_size=30
)


@given(st.sampled_from([0.0, 0.1, 0.2, 1.0]), st.sampled_from([0.0, 0.5, 3.0]), st.floats(0.0, 1e6), events)
def test_no_window_holds_more_than_is_paid_for(share: float, minimum: float, start: float, events: list) -> None:
    budget, now = RetryBudget(share, minimum), start
    requests: list[float] = []
    retries: list[float] = []
    for pause, more, wanted in events:
        now += pause
        for _ in range(more):
            budget.pay_in(now)
            requests.append(now)
        for _ in range(wanted):
            paid = budget.take_out(now)
            lately = sum(now - time <= WINDOW_SECONDS for time in retries)
            longer = sum(now - time <= WINDOW_SECONDS * 1.1 + EXACTLY for time in retries)
            asked = sum(now - time <= WINDOW_SECONDS for time in requests)
            asked_longer = sum(now - time <= WINDOW_SECONDS * 1.1 + EXACTLY for time in requests)
            if paid:
                retries.append(now)
                assert lately + 1 <= share * asked_longer + minimum * WINDOW_SECONDS + EXACTLY
            else:
                assert longer + 1 > share * asked + minimum * WINDOW_SECONDS - EXACTLY


def test_a_fifth_of_the_requests_may_be_retried() -> None:
    budget = RetryBudget(0.2, 0.0)
    assert not budget.take_out(0.0)
    for _ in range(100):
        budget.pay_in(0.0)
    assert [budget.take_out(5.0) for _ in range(25)] == [True] * 20 + [False] * 5


def test_what_was_paid_in_expires_and_so_does_what_was_taken() -> None:
    budget = RetryBudget(1.0, 0.1)
    for _ in range(50):
        budget.pay_in(0.0)
    assert all(budget.take_out(1.0) for _ in range(51))
    assert not budget.take_out(1.0)
    assert budget.take_out(20.0)
    assert not budget.take_out(20.0)  # the minimum: one in ten seconds
