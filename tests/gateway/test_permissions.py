"""Permissions: what they grant and deny, in whatever order they come and whatever is asked."""

from __future__ import annotations

import logging
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.conditions import parse_condition
from gateway.consumers import Consumer
from gateway.facts import Facts
from gateway.permissions import LONGEST_WANTED, MOST_REMEMBERED, Grants, Permission, check_wanted, parse


@pytest.mark.parametrize(
    ("permissions", "wanted", "allowed"),
    [
        (["books:read"], "books:read", True),
        (["books:read"], "books:write", False),
        (["books:read"], "books/7:read", False),
        (["books:*"], "books:read", True),
        (["books:*"], "books:read/all", True),
        (["*:read"], "books/7/pages:read", True),
        (["books/*:read"], "books/7:read", True),
        (["books/*:read"], "books/7/pages:read", True),
        (["books/*:read"], "books:read", False),
        (["books/*/pages:read"], "books/7/pages:read", True),
        (["books/*/pages:read"], "books/7/8/pages:read", False),
        (["*"], "a/b/c:d/e", True),
        (["*:*"], "a:b", True),
        ([], "books:read", False),
        (["*", "!books:delete"], "books:delete", False),
        (["!books:delete", "*"], "books:delete", False),
        (["*", "!books:delete"], "books:read", True),
        (["*", "!books/*:*"], "books/7:read", False),
        (["*", "!*"], "a:b", False),
        (["books/*:read"], "books/AbC:read", True),
        (["*", "!books/secret:read"], "books/SECRET:read", False),
        (["books/secret:read"], "books/SECRET:read", False),
    ],
)
def test_what_is_granted(permissions: list[str], wanted: str, allowed: bool) -> None:
    grants = Grants(permissions)
    for _ in range(2):  # the second is remembered
        decision = grants.decide(wanted)
        assert decision.allowed is allowed
        assert decision.because


@pytest.mark.parametrize("text", ["", "books", "books:", ":read", "Books:read", "a:b:c", " books:read", "books:read "])
@pytest.mark.parametrize("prefix", ["", "!"])
def test_what_is_no_permission(text: str, prefix: str) -> None:
    with pytest.raises(ValueError, match="not a permission"):
        parse(prefix + text)


@pytest.mark.parametrize(
    "text", ["b*:read", "!!a:b", "! a:b", "a//b:c", "a/:b", "a b:c", "ü:b", "a:b\n", "**", "a:b if"]
)
def test_what_is_none_either(text: str) -> None:
    with pytest.raises(ValueError, match="not a permission"):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        *("books:*", "*", "!a:b", "a:b if hour < 3", "a", "", "a:b:c", "x" * LONGEST_WANTED + ":b"),
        *("books/..:read", "books/../users:read", "./books:read", "books/.:read", "books:..", "books:../read", "..:.."),
    ],
)
def test_what_nobody_can_want(text: str) -> None:
    with pytest.raises(ValueError, match="not one permission"):
        check_wanted(text)
    assert not Grants(["*"]).decide(text).allowed


def test_decisions_say_why() -> None:
    grants = Grants(["books:*", "!books:delete", "notes:read if 'a' in roles", "!keys:* if hour < 3", "keys:*"])
    because = {wanted: grants.decide(wanted).because for wanted in ("books:read", "books:delete", "a:b", "notes:read")}
    assert because == {
        "books:read": "books:* grants it",
        "books:delete": "!books:delete denies it",
        "a:b": "nothing grants it",
        "notes:read": "no condition of what grants it holds",
    }
    assert grants.decide("keys:read").because == "!keys:* if hour < 3 denies it"


def test_conditions_are_asked_each_time() -> None:
    grants = Grants(["notes:edit if resource.owner == user"])
    ann = Consumer("ann", "acme", user="u1")
    mine, hers, unknown = Facts(ann, resource={"owner": "u1"}), Facts(ann, resource={"owner": "u2"}), Facts(ann)
    answers = [grants.decide("notes:edit", facts).allowed for facts in (mine, hers, unknown, mine)]
    assert answers == [True, False, False, True]
    assert not grants.settled


def test_a_denial_that_cannot_be_evaluated_denies() -> None:
    grants = Grants(["*", "!notes:edit if resource.locked == 'yes'"])
    assert grants.decide("notes:edit", Facts(resource={"locked": "no"})).allowed
    assert not grants.decide("notes:edit", Facts(resource={"locked": "yes"})).allowed
    assert not grants.decide("notes:edit", Facts(resource={"locked": 1})).allowed
    assert not grants.decide("notes:edit", Facts()).allowed
    assert grants.decide("notes:read", Facts()).allowed


def test_an_unreadable_grant_grants_nothing_and_an_unreadable_denial_denies_all(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            grants = Grants(["books:read", "Zettel:lesen"])
            assert grants.unreadable == ("Zettel:lesen",)
            assert grants.decide("books:read").allowed
            denying = Grants(["*", "!Zettel:lesen", "a:b if this is nonsense"])
            assert not denying.decide("books:read").allowed
            assert not denying.decide("a:b").allowed
    assert len(caplog.records) == 3, "each text is logged once"


@pytest.mark.parametrize("mark", ["！", "ǃ", "\u200b!", "\ufeff!", " !", "\t!", "¡", "'!", "not ", "-!", "﹗", "❗"])
def test_what_looks_like_a_denial_is_one(mark: str) -> None:
    allowed = Grants(["*", f"{mark}books:delete"]).decide("books:delete").allowed
    assert allowed is (mark in ("not ", "-!")), "what begins as a grant could is taken for one"


@pytest.mark.parametrize("mark", [" ", "\t", "\u00a0", "\ufeff", "(", "$"])
def test_so_is_what_begins_as_nothing_could(mark: str) -> None:
    grants = Grants(["*", f"{mark}books:delete"])
    assert not grants.decide("books:delete").allowed
    assert not grants.decide("notes:read").allowed, "whatever was meant to be denied"


@pytest.mark.parametrize(
    "condition",
    [
        "resource.id in ('7', '8')",
        "not resource.id not in ('7', '8')",
        "resource.id in resource.blocked",
        "resource.id == '7'",
    ],
)
def test_no_kind_of_value_escapes_a_denial(condition: str) -> None:
    grants = Grants(["doc:read", f"!doc:read if {condition}"])
    blocked = frozenset({"7", "8"})
    for value in ("7", 7, 7.0, blocked):
        assert not grants.decide("doc:read", Facts(resource={"id": value, "blocked": blocked})).allowed
    assert grants.decide("doc:read", Facts(resource={"id": "9", "blocked": blocked})).allowed


@pytest.mark.parametrize("condition", ["resource.id not in ('7', '8')", "not resource.id in resource.blocked"])
def test_no_kind_of_value_brings_a_grant(condition: str) -> None:
    grants = Grants([f"doc:read if {condition}"])
    blocked = frozenset({"7", "8"})
    for value in ("7", 7, 9, blocked):
        assert not grants.decide("doc:read", Facts(resource={"id": value, "blocked": blocked})).allowed
    assert grants.decide("doc:read", Facts(resource={"id": "9", "blocked": blocked})).allowed


@pytest.mark.parametrize("text", ["books/.hidden:read", "books/..x:read", "books/x..:read", "books/...:read"])
def test_dots_may_stand_in_names(text: str) -> None:
    assert Grants(["books/*:read"]).decide(text).allowed


def test_equal_permissions_share_what_was_made_of_them() -> None:
    assert Grants.of(("books:read",)) is Consumer("a", "b", permissions=("books:read",)).grants


def test_what_is_remembered_is_bounded() -> None:
    grants = Grants(["books/*:read", "!notes/*:read if hour < 3"])
    for number in range(3 * MOST_REMEMBERED):
        assert grants.decide(f"books/{number}:read").allowed
        assert not grants.decide(f"notes/{number}:read").allowed
        assert not grants.decide(f"not a permission {number}").allowed
        assert len(grants.settled) <= MOST_REMEMBERED
        assert len(grants._rulings) <= MOST_REMEMBERED
    assert all(wanted.startswith("books/") for wanted in grants.settled)


SEGMENT = st.sampled_from(["a", "b", "c", "*"])
SIDE = st.lists(SEGMENT, min_size=1, max_size=3).map(tuple)
CONDITION = st.sampled_from([None, parse_condition("hour < 12"), parse_condition("resource.x == 'y' or user != 'u'")])
PERMISSION = st.builds(Permission, SIDE, SIDE, st.booleans(), CONDITION)
PERMISSIONS = st.lists(PERMISSION.map(str), max_size=6)
PLAIN = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map("/".join)
WANTED = st.builds("{}:{}".format, PLAIN, PLAIN)
FACTS = st.builds(
    Facts,
    st.sampled_from([None, Consumer("ann", "acme", user="u"), Consumer("bob", "acme", user="v")]),
    resource=st.dictionaries(st.just("x"), st.sampled_from(["y", "z", 1])),
    micros=st.sampled_from([None, 0, 15 * 3600 * 1_000_000]),
)


@given(permission=PERMISSION)
def test_a_permission_written_out_reads_as_the_same(permission: Permission) -> None:
    assert parse(str(permission)) == permission


@given(permissions=PERMISSIONS, facts=FACTS, wanted=WANTED, random=st.randoms(use_true_random=False))
def test_the_order_does_not_matter(permissions: list[str], facts: Facts, wanted: str, random: random.Random) -> None:
    shuffled = list(permissions)
    random.shuffle(shuffled)
    one, other = Grants(permissions).decide(wanted, facts), Grants(shuffled).decide(wanted, facts)
    assert (one.allowed, one.denied) == (other.allowed, other.denied)


@given(permissions=PERMISSIONS, facts=FACTS, wanted=WANTED, place=st.integers(0, 6))
def test_a_denial_wins_wherever_it_stands(permissions: list[str], facts: Facts, wanted: str, place: int) -> None:
    assert not Grants([*permissions[:place], f"!{wanted}", *permissions[place:]]).decide(wanted, facts).allowed


@given(permissions=PERMISSIONS, facts=FACTS, wanted=WANTED, more=PERMISSION)
def test_a_denial_takes_away_and_a_grant_adds(
    permissions: list[str], facts: Facts, wanted: str, more: Permission
) -> None:
    before = Grants(permissions).decide(wanted, facts).allowed
    after = Grants([*permissions, str(more)]).decide(wanted, facts).allowed
    assert after <= before if more.denies else after >= before


FEW = st.lists(st.sampled_from(["a", "*"]), min_size=1, max_size=3).map(tuple)


@given(
    resource=FEW, action=FEW, wanted=st.lists(PLAIN.map(lambda side: side.replace("c", "a")), min_size=2, max_size=2)
)
def test_a_wildcard_covers_all_that_its_segment_did(
    resource: tuple[str, ...], action: tuple[str, ...], wanted: list[str]
) -> None:
    narrow, asked = Grants([str(Permission(resource, action))]), ":".join(wanted)
    for place in range(len(resource)):
        wide = Grants([str(Permission((*resource[:place], "*", *resource[place + 1 :]), action))])
        assert wide.decide(asked).allowed >= narrow.decide(asked).allowed


@given(permissions=st.lists(PERMISSION.map(str) | st.text(max_size=12), max_size=6), facts=FACTS, wanted=st.text())
def test_whatever_is_wanted_is_decided(permissions: list[str], facts: Facts, wanted: str) -> None:
    assert Grants(permissions).decide(wanted, facts).allowed in (True, False)
