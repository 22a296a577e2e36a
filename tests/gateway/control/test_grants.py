"""Grants: what is left under a narrower list, and what somebody may pass on."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.control.grants import narrowed, not_held
from gateway.permissions import Grants

X = 'method == "GET"'
Y = 'user == "x"'


def allows(permissions: Sequence[str], wanted: str) -> bool:
    return Grants.of(tuple(permissions)).decide(wanted).allowed


@pytest.mark.parametrize(
    ("granted", "most", "left"),
    [
        (["a:b"], None, ("a:b",)),
        (["a:*"], ["a:b"], ("a:b",)),
        (["a:b"], ["*"], ("a:b",)),
        (["a:b"], ["a:c"], ()),
        (["*:read"], ["books:*"], ("books:read",)),
        (["a/*:x"], ["a/b/c:x"], ("a/b/c:x",)),
        (["a:b", "!a:c"], ["a:*", "!a:d"], ("a:b", "!a:c", "!a:d")),
        ([f"a:b if {X}"], [f"a:* if {Y}"], (f"a:b if {X} and {Y}",)),
        ([f"a:b if {X}"], [f"a:b if {X}"], (f"a:b if {X}",)),
        (["a:b", "Nonsense"], ["*"], ("a:b",)),
        (["a:b", "!Nonsense"], ["*"], ("a:b", "!*:*")),
        ([f"a:b if user == '{'x' * 300}'"], [f"a:b if method == '{'y' * 300}'"], ()),
    ],
)
def test_what_is_left(granted: list[str], most: list[str] | None, left: tuple[str, ...]) -> None:
    assert narrowed(granted, most) == left


sides = st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=3).map("/".join)
texts = st.builds(lambda deny, one, other: f"{deny}{one}:{other}", st.sampled_from(["", "", "!"]), sides, sides)
lists = st.lists(texts, max_size=4)
plain = st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=3).map("/".join)
wanted = st.builds(lambda one, other: f"{one}:{other}", plain, plain)


@given(lists, lists, wanted)
def test_narrowed_allows_what_both_do(granted: list[str], most: list[str], asked: str) -> None:
    assert allows(narrowed(granted, most), asked) == (allows(granted, asked) and allows(most, asked))


@given(lists, lists, wanted)
def test_what_may_be_passed_on_is_never_more(held: list[str], granted: list[str], asked: str) -> None:
    if not_held(held, granted) is None and allows(granted, asked):
        assert allows(held, asked)


@given(lists)
def test_what_somebody_has_may_be_passed_on_whole(held: list[str]) -> None:
    assert not_held(held, held) is None


def test_a_condition_is_passed_on_with_it() -> None:
    assert not_held([f"a:b if {X}"], [f"a:b if {X}"]) is None
    assert not_held([f"a:b if {X}"], ["a:b"]) == "a:b"
    assert not_held(["a:b"], [f"a:b if {X}"]) is None
    assert not_held(["*:*", "!a:b"], ["a:*", f"!a:b if {X}"]) == "a:*"
