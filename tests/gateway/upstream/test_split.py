"""Split: shares by weight; sticky callers move only to the upstream whose weight was raised."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.request_key import RequestKeyOptions
from gateway.upstream.split import Split, SplitOptions, check_split
from tests.fixtures.targets import request_of

CALLERS = [request_of(cookie=f"sid=s{number}") for number in range(2000)]
BY_COOKIE = RequestKeyOptions(cookie="sid")


def split(weights: dict[str, int], sticky: RequestKeyOptions | None = None) -> Split:
    arms = [SplitOptions(upstream=name, weight=weight) for name, weight in weights.items()]
    check_split(arms)
    return Split(arms, sticky, Random(4))


@pytest.mark.parametrize("sticky", [None, BY_COOKIE])
def test_shares_follow_the_weights(sticky: RequestKeyOptions | None):
    chosen = split({"books": 95, "books-next": 5, "off": 0}, sticky)
    found = Counter(chosen.pick(caller) for caller in CALLERS)
    assert found["books-next"] / len(CALLERS) == pytest.approx(0.05, abs=0.02)
    assert set(found) == {"books", "books-next"}


@given(st.integers(1, 99), st.integers(1, 99))
def test_raising_the_canary_takes_no_caller_from_it(before: int, after: int):
    low, high = sorted((before, after))
    old = split({"books": 100 - low, "books-next": low}, BY_COOKIE)
    new = split({"books": 100 - high, "books-next": high}, BY_COOKIE)
    for caller in CALLERS[:100]:
        assert new.pick(caller) in ("books-next", old.pick(caller))


@given(st.lists(st.integers(0, 50), min_size=3, max_size=5), st.integers(1, 50))
def test_raising_one_of_many_moves_callers_only_there(weights: list[int], more: int):
    before = {str(place): weight for place, weight in enumerate(weights)} | {"always": 1}
    old, new = split(before, BY_COOKIE), split(before | {"0": weights[0] + more}, BY_COOKIE)
    for caller in CALLERS[:60]:
        assert new.pick(caller) in ("0", old.pick(caller))


def test_a_caller_stays_where_it_is():
    chosen, elsewhere = split({"a": 1, "b": 1}, BY_COOKIE), split({"b": 1, "a": 1}, BY_COOKIE)
    assert all(chosen.pick(caller) == chosen.pick(caller) == elsewhere.pick(caller) for caller in CALLERS[:100])


def test_without_a_key_each_request_is_a_draw_of_its_own():
    chosen = split({"a": 1, "b": 1}, BY_COOKIE)
    assert {chosen.pick(request_of()) for _ in range(50)} == {"a", "b"}


@pytest.mark.parametrize(
    ("arms", "text"),
    [
        ([("a", 1), ("a", 2)], "listed twice"),
        ([("a", 0), ("b", 0)], "nothing is sent anywhere"),
        ([], "nothing is sent"),
    ],
)
def test_a_split_that_cannot_be_meant_is_refused(arms: list[tuple[str, int]], text: str):
    with pytest.raises(ValueError, match=text):
        check_split([SplitOptions(upstream=name, weight=weight) for name, weight in arms])
