"""Outliers: ejected for good reasons, for a growing while, and never too many at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.upstream.options import UpstreamOptions
from gateway.upstream.outlier import Outliers, PassiveOptions
from gateway.upstream.target import Target
from tests.fixtures.targets import make_targets


def judging(targets: list[Target], **options: Any) -> Outliers:
    outliers = Outliers(PassiveOptions.model_validate({"max_ejected": "100%", **options}))
    outliers.use(targets)
    return outliers


def ejected(targets: list[Target]) -> list[Target]:
    return [target for target in targets if Outliers.reason(target)]


def fail(outliers: Outliers, target: Target, times: int, now: float) -> bool:
    return sum(outliers.answered(target, 0.01, False, now) for _ in range(times)) > 0


def test_failures_in_a_row_eject_at_once():
    bad, good = targets = make_targets(1, 1)
    outliers = judging(targets, failures=3)
    assert not fail(outliers, bad, 2, 0.0)
    outliers.answered(bad, 0.01, True, 0.0)
    assert not fail(outliers, bad, 2, 0.0)
    assert fail(outliers, bad, 1, 0.0)
    assert Outliers.reason(bad) == "failures in a row"
    assert ejected(targets) == [bad]
    assert not fail(outliers, bad, 5, 0.1), "what was on its way changes nothing"
    assert not outliers.answered(good, 0.01, True, 0.1)


def test_it_comes_back_in_time_and_is_gone_longer_each_time():
    bad, _ = targets = make_targets(1, 1)
    outliers = judging(targets, failures=1, ejection=10.0, longest_ejection=25.0)
    now, lengths = 0.0, []
    for _ in range(4):
        assert fail(outliers, bad, 1, now)
        began = now
        while not outliers.sweep(now):
            now += 1.0
        assert ejected(targets) == []
        lengths.append(now - began)
    assert lengths == [10.0, 20.0, 25.0, 25.0]


def test_good_times_are_remembered_too():
    bad, _ = targets = make_targets(1, 1)
    outliers = judging(targets, failures=1, ejection=10.0)
    for now in (0.0, 10.0):
        assert fail(outliers, bad, 1, now)
        outliers.sweep(now + 20.0)
    assert ejected(targets) == []
    assert fail(outliers, bad, 1, 100.0)
    assert not outliers.sweep(109.9)
    assert outliers.sweep(110.0), "after good times it is the first again"


def test_a_rate_of_failures_ejects_if_there_are_enough_calls():
    bad, _ = targets = make_targets(1, 1)
    outliers = judging(targets, failures=None, failure_rate="50%", minimum_requests=10, window="10s")
    for turn in range(8):
        outliers.answered(bad, 0.01, bool(turn % 2), 0.0)
    assert ejected(targets) == []
    outliers.answered(bad, 0.01, True, 0.0)
    assert outliers.answered(bad, 0.01, False, 0.0)
    assert Outliers.reason(bad) == "failure rate"


def test_failures_of_long_ago_do_not_count():
    bad, _ = targets = make_targets(1, 1)
    outliers = judging(targets, failures=None, failure_rate="50%", minimum_requests=10, window="10s")
    assert not fail(outliers, bad, 9, 0.0)
    assert not fail(outliers, bad, 9, 20.0)
    assert fail(outliers, bad, 1, 20.0)


def test_one_that_is_slower_than_the_others_is_ejected():
    targets = make_targets(1, 1, 1)
    outliers = judging(targets, slower_than=3.0, minimum_requests=10)
    for _ in range(10):
        for target, seconds in zip(targets, (0.1, 0.12, 0.5), strict=True):
            outliers.answered(target, seconds, True, 0.0)
    assert outliers.sweep(1.0)
    assert [Outliers.reason(target) for target in targets] == ["", "", "latency"]


@pytest.mark.parametrize(
    ("seconds", "calls"),
    [((0.1, 0.1, 0.25), 10), ((0.1, 0.1, 9.0), 9), ((0.0001, 0.0001, 0.004), 10), ((0.5, 0.5, 0.5), 10)],
    ids=["not much slower", "too few calls", "too little to matter", "all alike"],
)
def test_others_are_not(seconds: tuple[float, ...], calls: int):
    targets = make_targets(1, 1, 1)
    outliers = judging(targets, slower_than=3.0, minimum_requests=10)
    for _ in range(calls):
        for target, took in zip(targets, seconds, strict=True):
            outliers.answered(target, took, True, 0.0)
    assert not outliers.sweep(1.0)
    assert ejected(targets) == []


def test_when_there_is_room_again_the_next_one_goes():
    """A target that fails on while too many are ejected is not forgotten."""
    one, two = targets = make_targets(1, 1)
    outliers = judging(targets, failures=2, max_ejected="50%", ejection="10s")
    assert fail(outliers, one, 2, 0.0)
    assert not fail(outliers, two, 9, 1.0)
    assert outliers.sweep(10.0)
    assert fail(outliers, two, 1, 10.0)
    assert ejected(targets) == [two]


def test_when_the_others_leave_those_that_would_come_back_first_do():
    one, two, three, four = targets = make_targets(1, 1, 1, 1)
    outliers = judging(targets, failures=1, max_ejected="50%")
    assert fail(outliers, one, 1, 0.0)
    assert fail(outliers, two, 1, 1.0)
    assert not fail(outliers, three, 1, 2.0)
    outliers.use([one, two, four])
    assert ejected(targets) == [two]
    outliers.use([two])
    assert ejected(targets) == []


events = st.lists(
    st.tuples(st.just("use"), st.lists(st.integers(0, 6), min_size=1, max_size=7, unique=True))
    | st.tuples(st.just("fail"), st.integers(0, 6))
    | st.tuples(st.just("answer"), st.tuples(st.integers(0, 6), st.floats(0, 2)))
    | st.tuples(st.just("wait"), st.floats(0, 40)),
    max_size=80,
)


@given(events, st.sampled_from(["0%", "20%", "34%", "50%", "100%"]))
def test_never_more_than_their_share_is_ejected_nor_for_longer_than_the_limit(events: list[tuple[str, Any]], most: str):
    everybody = make_targets(1, 1, 0, 1, 1, 1, 1)
    options = {"failures": 2, "failure_rate": "50%", "slower_than": 2.0, "minimum_requests": 3, "max_ejected": most}
    outliers = judging(everybody, **options, ejection="10s", longest_ejection="30s")
    used, now = everybody, 0.0
    for event, given_to in events:
        if event == "use":
            used = [everybody[place] for place in given_to]
            outliers.use(used)
        elif event == "fail":
            outliers.answered(everybody[given_to], 0.01, False, now)
        elif event == "answer":
            outliers.answered(everybody[given_to[0]], given_to[1], True, now)
        else:
            now += given_to
            outliers.sweep(now)
        assert len(ejected(used)) <= sum(1 for target in used if target.weight) * float(most[:-1]) / 100
        for target in ejected(used):
            record = target.state.record
            assert record is not None
            assert record.back_at <= now + 30.0
    outliers.sweep(now + 34.0)  # the longest ejection is over, and so is what the window holds
    assert all(target.state.record and not target.state.record.reason for target in used if target.state.record)


def test_what_is_known_goes_on_under_other_options():
    bad, good = targets = make_targets(1, 1)
    fail(judging(targets, failures=1), bad, 1, 0.0)
    outliers = judging(targets, failures=9, window="5s", max_ejected="50%")
    assert ejected(targets) == [bad]
    assert not outliers.answered(good, 0.1, True, 1.0)
    assert outliers.sweep(30.0)


@pytest.mark.parametrize(
    "options",
    [{"failures": 0}, {"failure_rate": "0%"}, {"slower_than": 1.0}, {"ejection": "10m"}, {"max_ejected": "101%"}],
)
def test_impossible_thresholds_are_refused(options: dict[str, Any]):
    with pytest.raises(ValidationError):
        PassiveOptions.model_validate(options)


def upstream(*hosts: str, max_ejected: str | None) -> UpstreamOptions:
    passive = {} if max_ejected is None else {"max_ejected": max_ejected}
    targets = [f"http://{host}:80" for host in hosts]
    return UpstreamOptions.model_validate({"targets": targets, "health": {"passive": passive}})


THREE = ("10.0.0.1", "10.0.0.2", "[fd00::3]")


@pytest.mark.parametrize(
    ("hosts", "share", "said"),
    [(THREE, "30%", "30% of 3 is no target (write at least 34%"), (("localhost",), "99.5%", "99.5% of 1")],
)
def test_a_share_that_is_no_target_is_refused(hosts: Sequence[str], share: str, said: str):
    with pytest.raises(ValidationError, match=re.escape(said)):
        upstream(*hosts, max_ejected=share)


@pytest.mark.parametrize(
    ("hosts", "share"), [(THREE, "34%"), (THREE, "0%"), (("one.internal",), "30%"), (("10.0.0.1",), None)]
)
def test_what_may_eject_a_target_or_is_meant_to_eject_none_is_taken(hosts: Sequence[str], share: str | None):
    assert upstream(*hosts, max_ejected=share).health is not None
