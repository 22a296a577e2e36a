"""Adaptive: away from slow, failing, busy, far and cold targets, and back when they are well again."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from math import isfinite
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.balancing.adaptive import RAMP_FROM, Adaptive, AdaptiveOptions
from gateway.upstream.target import Target, TargetOptions
from tests.fixtures.targets import REQUEST, make_targets, request_of

Behave = Callable[[Target, float], tuple[float, bool]]


def balanced(targets: list[Target], **options: object) -> Adaptive:
    balancer = Adaptive(AdaptiveOptions.model_validate({"name": "adaptive", **options}), Random(5))
    balancer.use(targets, 0.0)
    return balancer


def drive(balancer: Adaptive, behave: Behave, *, start: float, seconds: float, rate: float = 300.0) -> Counter[Target]:
    """Calls at random times, answered as `behave` says (in how many seconds, and whether well); who got how many."""
    rng = Random(11)
    found: Counter[Target] = Counter()
    going: list[tuple[float, int, Target, float, bool]] = []
    now = start
    while now < start + seconds:
        now += rng.expovariate(rate)
        while going and going[0][0] <= now:
            at, _, target, took, ok = heapq.heappop(going)
            balancer.answered(target, took, ok, at)
        picked = balancer.pick(REQUEST, now)
        assert picked is not None
        balancer.sent(picked, now)
        took, ok = behave(picked, now)
        found[picked] += 1
        heapq.heappush(going, (now + took, found.total(), picked, took, ok))
    for at, _, target, took, ok in sorted(going):
        balancer.answered(target, took, ok, at)
    return found


def quick(_target: Target, _now: float) -> tuple[float, bool]:
    return 0.01, True


def share(found: Counter[Target], target: Target) -> float:
    return found[target] / found.total()


def test_equals_share_equally():
    targets = make_targets(1, 1, 1, 1)
    found = drive(balanced(targets), quick, start=0.0, seconds=20.0)
    assert all(share(found, target) == pytest.approx(0.25, abs=0.05) for target in targets)


@pytest.mark.parametrize("slow", [1, 2])
def test_it_converges_away_from_slow_targets_and_back(slow: int):
    targets = make_targets(1, 1, 1, 1, 1)
    bad = set(targets[:slow])
    balancer = balanced(targets)

    def behave(target: Target, _now: float) -> tuple[float, bool]:
        return (0.2 if target in bad else 0.01), True

    drive(balancer, behave, start=0.0, seconds=2.0)
    found = drive(balancer, behave, start=2.0, seconds=20.0)
    assert sum(share(found, target) for target in bad) < 0.01
    drive(balancer, quick, start=22.0, seconds=40.0)
    well = drive(balancer, quick, start=62.0, seconds=20.0)
    assert all(share(well, target) > 0.12 for target in bad)


def test_failing_fast_is_not_fast():
    targets = make_targets(1, 1, 1)
    balancer = balanced(targets)

    def behave(target: Target, _now: float) -> tuple[float, bool]:
        return (0.001, False) if target is targets[0] else (0.01, True)

    found = drive(balancer, behave, start=0.0, seconds=20.0)
    assert share(found, targets[0]) < 0.03
    drive(balancer, quick, start=20.0, seconds=30.0)
    assert share(drive(balancer, quick, start=50.0, seconds=20.0), targets[0]) > 0.2


def test_what_nobody_waited_for_is_neither_well_nor_badly_done():
    target, other = make_targets(1, 1)
    balancer = balanced([target, other])
    balancer.answered(target, 0.1, True, 0.0)
    balancer.answered(target, 0.001, None, 0.0)
    assert balancer.costs(target, 0.0)[1] == pytest.approx(0.1)
    balancer.answered(target, 5.0, None, 0.0)
    assert balancer.costs(target, 0.0)[1] == pytest.approx(5.0), "it took at least that long"


def test_a_target_that_hangs_is_left_alone_before_the_first_timeout():
    targets = make_targets(1, 1, 1)
    balancer = balanced(targets)

    def behave(target: Target, _now: float) -> tuple[float, bool]:
        return (30.0, False) if target is targets[0] else (0.01, True)

    drive(balancer, quick, start=0.0, seconds=1.0)
    assert share(drive(balancer, behave, start=1.0, seconds=5.0), targets[0]) < 0.02


def test_a_new_target_starts_slowly():
    targets = make_targets(1, 1, 1, 1)
    balancer = balanced(targets[:3], slow_start=10.0)
    drive(balancer, quick, start=0.0, seconds=2.0)
    balancer.use(targets, 2.0)
    shares = [share(drive(balancer, quick, start=2.0 + 4 * n, seconds=4.0), targets[3]) for n in range(5)]
    assert shares[0] < 0.12
    assert shares[0] < shares[1] < shares[2] < shares[4] + 0.03
    assert shares[4] == pytest.approx(0.25, abs=0.05)


def test_the_ramp_is_envoy_s():
    old, new = make_targets(1, 1)
    balancer = balanced([old], slow_start=10.0)
    balancer.use([old, new], 100.0)
    full = balancer.costs(old, 105.0)[0]
    assert balancer.costs(new, 100.0)[0] == pytest.approx(full / RAMP_FROM)
    assert balancer.costs(new, 105.0)[0] == pytest.approx(full / 0.5)
    assert balancer.costs(new, 110.0)[0] == pytest.approx(full)


def test_all_targets_of_the_first_list_are_equally_new():
    one, two = make_targets(1, 1)
    balancer = balanced([one, two])
    assert balancer.costs(one, 0.0) == balancer.costs(two, 0.0) == (1.0, 1.0)


def test_a_spike_is_felt_at_once_and_forgiven_over_the_decay():
    target, other = make_targets(1, 1)
    balancer = balanced([target, other], decay=10.0)
    balancer.answered(target, 0.01, True, 0.0)
    balancer.answered(target, 0.5, True, 1.0)
    assert balancer.costs(target, 1.0)[1] == 0.5
    balancer.answered(target, 0.01, True, 11.0)
    assert balancer.costs(target, 11.0)[1] == pytest.approx(0.01 + 0.49 / 2.71828, rel=1e-4)


def test_what_nobody_refreshes_goes_to_what_is_usual():
    slow, other = make_targets(1, 1)
    balancer = balanced([slow, other])
    balancer.answered(slow, 2.0, True, 0.0)
    for tick in range(100):
        balancer.answered(other, 0.01, True, float(tick))
    usual = balancer.costs(slow, 1e6)[1]
    assert usual == pytest.approx(0.01, rel=0.01)
    assert balancer.costs(slow, 99.0)[1] > usual


def test_weight_zone_and_reports_are_factors():
    plain, busy = (Target(TargetOptions(url=f"http://{name}", zone="a")) for name in ("plain", "busy"))
    heavy = Target(TargetOptions(url="http://heavy", zone="a", weight=4))
    far = Target(TargetOptions(url="http://far", zone="b"))
    balancer = balanced([plain, heavy, far, busy], zone="a", other_zone=3.0, load_reports=True)
    balancer.reported(busy, "TEXT cpu_utilization=0.75", 0.0)
    assert balancer.costs(plain, 0.0)[0] == 1.0
    assert balancer.costs(heavy, 0.0)[0] == 0.25
    assert balancer.costs(far, 0.0)[0] == 3.0
    assert balancer.costs(busy, 0.0)[0] == 4.0
    assert balancer.costs(busy, 11.0)[0] == 1.0, "an old report says nothing"
    balancer.reported(busy, "nonsense", 12.0)
    assert balancer.costs(busy, 12.0)[0] == 1.0


@pytest.mark.parametrize(
    ("said", "weight"), [("7", 7), ("0", 1), ("5000", 100), ("-3", 1), ("1.5", 1), ("", 1), ("9" * 400, 1), ("²", 1)]
)
def test_a_request_may_weigh_more(said: str, weight: int):
    (target,) = make_targets(1)
    balancer = balanced([target], weight_field="x-weight")
    assert balancer.weigh(request_of(x_weight=said)) == weight
    balancer.sent(target, 0.0, weight)
    assert balancer.costs(target, 0.0)[0] == 1.0 + weight


@given(
    st.lists(st.tuples(st.floats(0, 1e5), st.sampled_from([True, False, None]), st.floats(0, 1e4)), max_size=50),
    st.floats(0, 1e9),
)
def test_costs_are_finite_and_positive_whatever_happened(answers: list[tuple[float, bool | None, float]], start: float):
    target, other = make_targets(1, 1)
    balancer = balanced([target, other])
    now = start
    for seconds, ok, later in answers:
        now += later
        balancer.sent(target, now)
        balancer.answered(target, seconds, ok, now)
        for each in (target, other):
            cost, expected = balancer.costs(each, now)
            assert isfinite(cost)
            assert cost >= 0
            assert expected >= 0
    assert balancer.pick(REQUEST, now) in (target, other)


def test_an_answer_to_a_call_of_before_the_reload_is_no_surprise():
    (target,) = make_targets(1)
    balancer = balanced([])
    balancer.sent(target, 0.0)
    balancer.answered(target, 0.1, True, 0.1)
    assert target.state.in_flight == 0
