"""Weighted: exact over a cycle, and even within it."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.balancing.weighted import Weighted
from gateway.upstream.target import Target
from tests.fixtures.targets import REQUEST, make_targets

weights = st.lists(st.integers(1, 30), min_size=1, max_size=6)


def pick(balancer: Weighted, avoid: tuple[Target, ...] = ()) -> Target:
    target = balancer.pick(REQUEST, 0.0, avoid)
    assert target is not None
    return target


def test_it_is_as_smooth_as_nginx():
    a, b, c = targets = make_targets(5, 1, 1)
    balancer = Weighted()
    balancer.use(targets, 0.0)
    assert [pick(balancer) for _ in range(14)] == [a, a, b, a, c, a, a] * 2


@given(weights, st.integers(1, 3))
def test_over_a_cycle_shares_are_exactly_the_weights(weights: list[int], cycles: int):
    targets = make_targets(*weights)
    balancer = Weighted()
    balancer.use(targets, 0.0)
    found = Counter(pick(balancer) for _ in range(cycles * sum(weights)))
    assert found == {target: cycles * target.weight for target in targets}


@given(weights)
def test_at_any_time_nobody_is_far_from_its_share(weights: list[int]):
    targets = make_targets(*weights)
    balancer = Weighted()
    balancer.use(targets, 0.0)
    found: Counter[Target] = Counter()
    for done in range(1, sum(weights) + 1):
        found[pick(balancer)] += 1
        assert all(abs(found[target] - done * target.weight / sum(weights)) < 2 for target in targets)


@given(weights, weights, st.integers(0, 40))
def test_other_weights_take_effect_at_once(before: list[int], after: list[int], picks: int):
    """What was gained under large weights neither keeps a target away under small ones, nor alone."""
    old = make_targets(*[1000 // max(before) * weight for weight in before])
    balancer = Weighted()
    balancer.use(old, 0.0)
    for _ in range(picks):
        pick(balancer)
    new = make_targets(*after)
    for target, predecessor in zip(new, old, strict=False):
        target.state = predecessor.state
    balancer.use(new, 0.0)
    cycles = 4 * len(new)
    found = Counter(pick(balancer) for _ in range(cycles * sum(after)))
    assert all(abs(found[target] - cycles * target.weight) <= 2 * len(new) for target in new)


def test_whoever_stays_goes_on_where_it_was():
    a, b, c = make_targets(1, 1, 1)
    balancer = Weighted()
    balancer.use([a, b, c], 0.0)
    assert pick(balancer) is a
    balancer.use([a, b], 1.0)
    assert pick(balancer) is b
    found = Counter(pick(balancer) for _ in range(10))
    assert abs(found[a] - found[b]) <= 1


def test_what_was_tried_gains_nothing():
    a, b = make_targets(1, 1)
    balancer = Weighted()
    balancer.use([a, b], 0.0)
    assert [pick(balancer, (a,)) for _ in range(3)] == [b, b, b]
    assert Counter(pick(balancer) for _ in range(10)) == {a: 5, b: 5}
