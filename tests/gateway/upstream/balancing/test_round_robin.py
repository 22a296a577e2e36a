"""Round robin: fair, also while the list changes."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.balancing.round_robin import RoundRobin
from gateway.upstream.target import Target
from tests.fixtures.targets import REQUEST, make_targets

places = st.lists(st.sampled_from(range(6)), min_size=1, max_size=6, unique=True).map(sorted)


def pick(balancer: RoundRobin) -> Target:
    target = balancer.pick(REQUEST, 0.0)
    assert target is not None
    return target


@given(st.integers(1, 9), st.integers(1, 5))
def test_each_is_picked_once_a_round(count: int, rounds: int):
    targets = make_targets(*[1] * count)
    balancer = RoundRobin(Random(1))
    balancer.use(targets, 0.0)
    assert Counter(pick(balancer) for _ in range(rounds * count)) == dict.fromkeys(targets, rounds)


@given(st.lists(st.tuples(places, st.integers(0, 8)), min_size=1, max_size=12), st.integers(0, 99))
def test_nobody_is_picked_again_before_all_who_stayed_were(changes: list[tuple[list[int], int]], seed: int):
    """Over any change of the list, with targets made anew as by a reload."""
    balancer = RoundRobin(Random(seed))
    waiting: dict[str, set[str]] = {}  # by target, who it must wait for since it was picked
    for present, picks in changes:
        everybody = make_targets(*[1] * 6)
        balancer.use([everybody[place] for place in present], 0.0)
        names = {everybody[place].name for place in present}
        waiting = {name: others & names for name, others in waiting.items()}
        for _ in range(picks):
            name = pick(balancer).name
            assert not waiting.get(name), "picked twice while others waited"
            for others in waiting.values():
                others.discard(name)
            waiting[name] = names - {name}


def test_processes_begin_at_different_targets():
    targets = make_targets(1, 1, 1, 1)
    first = set()
    for seed in range(40):
        balancer = RoundRobin(Random(seed))
        balancer.use(targets, 0.0)
        first.add(pick(balancer))
    assert first == set(targets)


@given(count=st.integers(2, 6), seed=st.integers(0, 99))
def test_a_target_that_fails_meets_no_more_calls_than_its_share(count: int, seed: int):
    """However many of them are tried again: a budget for retries is reckoned by that share."""
    bad, *_ = targets = make_targets(*[1] * count)
    balancer = RoundRobin(Random(seed))
    balancer.use(targets, 0.0)
    met: Counter[Target] = Counter()
    for _ in range(20 * count):
        met[target := pick(balancer)] += 1
        if target is bad:
            assert balancer.pick(REQUEST, 0.0, [bad]) is not bad
    assert met == dict.fromkeys(targets, 20)


def test_further_attempts_are_spread_over_the_others():
    bad, *others = targets = make_targets(1, 1, 1, 1)
    balancer = RoundRobin(Random(1))
    balancer.use(targets, 0.0)
    found = Counter(balancer.pick(REQUEST, 0.0, [bad]) for _ in range(300))
    assert set(found) == set(others)
    assert min(found.values()) > 70
    assert balancer.pick(REQUEST, 0.0, targets) in targets, "all were tried: any will do"
