"""Rendezvous hashing: shares follow the weights, and a change moves no key that it need not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.upstream.rendezvous import BUCKETS, Table, bucket_of, choose

KEYS = [f"caller-{number}".encode() for number in range(4000)]
names = st.lists(st.sampled_from([f"http://10.0.0.{n}:80" for n in range(30)]), min_size=2, max_size=8, unique=True)


def by_key(weights: dict[str, float], keys: int = 100) -> list[str]:
    return [choose(key, weights) for key in KEYS[:keys]]


def by_bucket(weights: dict[str, float]) -> list[str]:
    table = Table()
    table.assign(weights)
    return list(table.owners)


both = pytest.mark.parametrize("assign", [by_key, by_bucket])


@both
@settings(max_examples=40)
@given(names=names)
def test_when_a_name_leaves_only_its_keys_move(assign: Callable[[dict[str, float]], list[str]], names: list[str]):
    weights = dict.fromkeys(names, 1.0)
    before = assign(weights)
    left = weights.popitem()[0]
    after = assign(weights)
    assert all(now == then for now, then in zip(after, before, strict=True) if then != left)


@both
@settings(max_examples=40)
@given(names=names, factor=st.floats(1.01, 50))
def test_when_a_weight_is_raised_keys_move_only_there(
    assign: Callable[[dict[str, float]], list[str]], names: list[str], factor: float
):
    weights = dict(zip(names, range(1, 20), strict=False))
    before = assign({name: float(weight) for name, weight in weights.items()})
    raised = names[0]
    after = assign({name: float(weight) * (factor if name == raised else 1) for name, weight in weights.items()})
    assert all(now in (then, raised) for now, then in zip(after, before, strict=True))


def test_shares_follow_the_weights():
    weights = {"a": 1.0, "b": 2.0, "c": 7.0}
    found = Counter(by_key(weights, 4000) + by_bucket(weights))
    for name, weight in weights.items():
        assert found[name] / found.total() == pytest.approx(weight / 10, abs=0.03)


@settings(max_examples=40)
@given(st.lists(st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([1.0, 2.0, 7.0])), max_size=4))
def test_a_table_that_was_changed_is_like_one_made_anew(changes: list[dict[str, float]]):
    table = Table()
    for weights in changes:
        table.assign(weights)
        assert table.owners == by_bucket(weights)
        assert set(table.owners) == (set(weights) or {""})


def test_the_order_of_names_does_not_matter():
    forwards, backwards = ["a", "b", "c"], ["c", "b", "a"]
    assert by_bucket(dict.fromkeys(forwards, 1.0)) == by_bucket(dict.fromkeys(backwards, 1.0))


def test_everybody_finds_the_same_owner():
    """Processes and machines must agree; these were computed once, on another day."""
    assert [bucket_of(key) for key in KEYS[:4]] == SAME_BUCKETS
    assert "".join(by_bucket({"a": 1.0, "b": 1.0, "c": 1.0})[:16]) == SAME_OWNERS
    assert "".join(choose(key, {"a": 1.0, "b": 3.0}) for key in KEYS[:16]) == SAME_CHOICES


def test_buckets_are_even():
    found = Counter(bucket_of(str(number).encode()) for number in range(20 * BUCKETS))
    assert len(found) == BUCKETS
    assert max(found.values()) < 60


SAME_BUCKETS = [3655, 582, 3411, 3933]
SAME_OWNERS = "abcabcacabcbacbc"
SAME_CHOICES = "babbabbbbababbba"
