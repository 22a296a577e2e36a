"""Consistent hash: callers stay where they are, as long as that is not too much for whoever has them."""

from __future__ import annotations

from collections import Counter
from math import ceil
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.upstream.balancing.consistent_hash import ConsistentHash
from gateway.upstream.request_key import RequestKeyOptions
from gateway.upstream.target import Target, TargetOptions
from tests.fixtures.targets import make_targets, request_of

READ = RequestKeyOptions(header="x-user").reader()
CALLERS = [request_of(x_user=f"user-{number}") for number in range(500)]
weights = st.lists(st.integers(1, 5), min_size=2, max_size=7)


def balanced(targets: list[Target], bound: float = 1.25) -> ConsistentHash:
    balancer = ConsistentHash(READ, bound, Random(3))
    balancer.use(targets, 0.0)
    return balancer


def homes(balancer: ConsistentHash) -> list[Target | None]:
    return [balancer.pick(caller, 0.0) for caller in CALLERS]


@settings(max_examples=40)
@given(weights, st.integers(0, 6))
def test_when_a_target_is_gone_only_its_callers_move_and_come_back_with_it(weights: list[int], which: int):
    targets = make_targets(*weights)
    gone = targets[which % len(targets)]
    balancer = balanced(targets)
    before = homes(balancer)
    balancer.use([target for target in targets if target is not gone], 1.0)
    between = homes(balancer)
    assert all(now is then for now, then in zip(between, before, strict=True) if then is not gone)
    assert gone not in between
    balancer.use(targets, 2.0)
    assert homes(balancer) == before


@settings(max_examples=40)
@given(weights)
def test_a_new_target_takes_its_share_and_no_more(weights: list[int]):
    targets = make_targets(*weights)
    balancer = balanced(targets[:-1])
    before = homes(balancer)
    balancer.use(targets, 1.0)
    moved = [now for now, then in zip(homes(balancer), before, strict=True) if now is not then]
    assert set(moved) <= {targets[-1]}
    share = weights[-1] / sum(weights)
    assert len(moved) / len(CALLERS) <= share + 0.1  # of 500 callers, five standard deviations


@given(
    weights,
    st.floats(1.01, 3.0),
    st.lists(st.tuples(st.booleans(), st.integers(0, 2**16)), max_size=150),
)
def test_nobody_gets_more_than_its_bound(weights: list[int], bound: float, events: list[tuple[bool, int]]):
    """However uneven the keys: here nine of ten requests come from three callers."""
    targets = make_targets(*weights)
    balancer = balanced(targets, bound)
    going: list[Target] = []
    for begins, number in events:
        if begins or not going:
            caller = CALLERS[number % 3] if number % 10 else CALLERS[number % len(CALLERS)]
            picked = balancer.pick(caller, 0.0)
            assert picked is not None
            balancer.sent(picked, 0.0)
            going.append(picked)
            room = ceil(bound * len(going) * picked.weight / sum(weights))
            assert picked.state.in_flight <= room
        else:
            balancer.answered(going.pop(number % len(going)), 0.1, True, 0.0)


def test_a_caller_comes_home_when_there_is_room_again():
    balancer = balanced(make_targets(1, 1, 1, 1))
    caller = CALLERS[0]
    home = balancer.pick(caller, 0.0)
    assert home is not None
    for _ in range(3):
        balancer.sent(home, 0.0)
    elsewhere = balancer.pick(caller, 0.0)
    assert elsewhere is not home
    assert balancer.pick(caller, 0.0) is elsewhere
    for _ in range(3):
        balancer.answered(home, 0.1, True, 0.0)
    assert balancer.pick(caller, 0.0) is home


def test_another_attempt_goes_elsewhere_always_to_the_same():
    targets = make_targets(1, 1, 1, 1)
    balancer = balanced(targets)
    first = balancer.pick(CALLERS[0], 0.0)
    assert first is not None
    second = {balancer.pick(CALLERS[0], 0.0, [first]) for _ in range(5)}
    assert len(second) == 1
    assert first not in second


def test_a_tried_target_with_room_does_not_hide_that_others_have_none():
    one, two = targets = make_targets(1, 1)
    balancer = balanced(targets)
    for _ in range(10):
        balancer.sent(two, 0.0)
    assert balancer.pick(CALLERS[0], 0.0, [one]) is two


def test_without_a_key_calls_are_spread_by_weight():
    light, heavy = targets = make_targets(1, 3)
    balancer = balanced(targets)
    found = Counter(balancer.pick(request_of(), 0.0) for _ in range(4000))
    assert abs(found[heavy] / found[light] - 3) < 0.6


def test_a_target_too_light_for_a_bucket_is_still_there_for_another_attempt():
    giants, dwarf = make_targets(*[1000] * 20), Target(TargetOptions(url="http://dwarf"))
    balancer = balanced([*giants, dwarf])
    assert dwarf not in homes(balancer)
    assert balancer.pick(CALLERS[0], 0.0, giants) is dwarf
