from __future__ import annotations

import pytest

from gateway.credentials import credentials_of, in_target, the_only
from gateway.exchange import Request
from gateway.headers import Headers


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ([], None),
        (["Bearer abc"], "abc"),
        (["bEARER   abc  "], "abc"),
        (["Bearer\tabc"], None),
        (["Bearer \tabc"], "\tabc"),
        (["Bearer a b"], "a b"),
        (["Bearer"], ""),
        (["Basic abc"], None),
        ([" Bearer abc"], None),
        ([""], None),
    ],
)
def test_authorization_is_read_in_one_way(fields: list[str], found: str | None):
    assert credentials_of(fields, "bearer") == found


@pytest.mark.parametrize("fields", [["Bearer abc", "Bearer abc"], ["Basic YTpi", "Bearer abc"], ["", "Bearer abc"]])
def test_two_fields_are_none(fields: list[str]):
    with pytest.raises(ValueError, match="more than one"):
        credentials_of(fields, "bearer")


def test_one_may_come_often_but_not_beside_another():
    assert the_only([]) is None
    assert the_only(["a", "a", "a"]) == "a"
    with pytest.raises(ValueError, match="several"):
        the_only(["a", "a", "b"])


@pytest.mark.parametrize(
    ("in_fields", "stays", "found", "left"),
    [
        (None, False, "abc", "/books?page=2"),
        (None, True, "abc", "/books?key=abc&page=2"),
        ("abc", False, "abc", "/books?page=2"),
    ],
)
def test_one_in_the_target_is_taken_out(in_fields: str | None, stays: bool, found: str, left: str):
    request = Request("GET", "/books?key=abc&page=2", Headers())
    assert in_target(request, "key", in_fields, the_only, lambda _: stays) == found
    assert request.target == left


def test_the_target_and_the_fields_may_not_disagree():
    request = Request("GET", "/books?key=abc", Headers())
    with pytest.raises(ValueError, match="another one"):
        in_target(request, "key", "xyz", the_only, lambda _: False)
    assert in_target(request, "token", "xyz", the_only, lambda _: False) == "xyz"
    assert request.target == "/books?key=abc"
