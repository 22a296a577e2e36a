"""Grants: what permissions allow, what is left under a narrower list, and what somebody may pass on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.control.grants import allows, narrowed, not_held, parse


@pytest.mark.parametrize("text", ["books:read", "*", "*:*", "!books:*", "a/b/*:read", "books:read if owner == user"])
def test_permissions(text: str) -> None:
    assert parse(text) == parse(str(parse(text)))


@pytest.mark.parametrize(
    "text", ["", "books", "Books:read", "a:b:c", "a//b:c", "a:b if ", " a:b", "a:b\n", "b*:c", "!"]
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="not a permission"):
        parse(text)


@pytest.mark.parametrize(
    ("permissions", "wanted", "allowed"),
    [
        ([], "a:b", False),
        (["*"], "a/b:c", True),
        (["a:*"], "a:b", True),
        (["a:*"], "a/b:c", False),
        (["a/*:c"], "a/b/d:c", True),
        (["*:*", "!a:b"], "a:b", False),
        (["*:*", "!a:c"], "a:b", True),
        (["a:b if x"], "a:b", False),
        (["a:b", "!a:b if x"], "a:b", False),
        (["a:b", "nonsense"], "a:b", True),
        (["a:b", "!nonsense"], "a:b", False),
    ],
)
def test_what_they_allow(permissions: list[str], wanted: str, allowed: bool) -> None:
    assert allows(permissions, wanted) is allowed


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
        (["a:b if x"], ["a:b if y"], ("a:b if (x) and (y)",)),
        (["a:b if x"], ["a:b if x"], ("a:b if x",)),
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
    assert not_held(["a:b if x"], ["a:b if x"]) is None
    assert not_held(["a:b if x"], ["a:b"]) == "a:b"
    assert not_held(["a:b"], ["a:b if x"]) is None
    assert not_held(["*:*", "!a:b"], ["a:*", "!a:b if x"]) == "a:*"
