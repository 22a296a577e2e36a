"""Least connections: nobody has more in flight for its weight than another that could have taken the call."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.balancing.least_connections import LeastConnections
from tests.fixtures.targets import REQUEST, make_targets


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 20)), min_size=1, max_size=6), st.integers(0, 99))
def test_the_least_busy_for_its_weight_is_picked(busy: list[tuple[int, int]], seed: int):
    targets = make_targets(*(weight for weight, _ in busy))
    for target, (_, in_flight) in zip(targets, busy, strict=True):
        target.state.in_flight = in_flight
    balancer = LeastConnections(Random(seed))
    balancer.use(targets, 0.0)
    picked = balancer.pick(REQUEST, 0.0)
    assert picked is not None
    assert all(picked.state.in_flight / picked.weight <= each.state.in_flight / each.weight for each in targets)


def test_among_equals_weights_decide():
    light, heavy = targets = make_targets(1, 3)
    balancer = LeastConnections(Random(1))
    balancer.use(targets, 0.0)
    found = Counter(balancer.pick(REQUEST, 0.0) for _ in range(4000))
    assert abs(found[heavy] / found[light] - 3) < 0.4


def test_a_slow_target_gets_less():
    quick, slow = targets = make_targets(1, 1)
    balancer = LeastConnections(Random(1))
    balancer.use(targets, 0.0)
    found: Counter[object] = Counter()
    stuck = []
    for turn in range(1000):
        target = balancer.pick(REQUEST, 0.0)
        assert target is not None
        balancer.sent(target, 0.0)
        found[target] += 1
        if target is quick:
            balancer.answered(target, 0.01, True, 0.0)
        else:
            stuck.append(target)
        if turn % 100 == 99 and stuck:
            balancer.answered(stuck.pop(), 1.0, True, 0.0)
    assert found[slow] < 20
