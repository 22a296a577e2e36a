from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.hmac_auth.structured_fields import InnerList, Item, Token, read_dictionary, write_item, write_parameters

KEYS = st.from_regex(r"[a-z*][a-z0-9_\-.*]{0,9}", fullmatch=True)
STRINGS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20)
TOKENS = st.from_regex(r"[A-Za-z*][A-Za-z0-9!#$%&'*+\-.^_`|~:/]{0,9}", fullmatch=True).map(Token)
BARE = STRINGS | TOKENS | st.binary(max_size=20) | st.booleans() | st.integers(-(10**15) + 1, 10**15 - 1)
PARAMETERS = st.dictionaries(KEYS, BARE, max_size=3)
ITEMS = st.builds(Item, BARE, PARAMETERS)
INNER_LISTS = st.builds(InnerList, st.lists(ITEMS, max_size=4).map(tuple), PARAMETERS)


def write_inner_list(inner: InnerList) -> str:
    return f"({' '.join(map(write_item, inner.items))}){write_parameters(inner.parameters)}"


def written(members: dict[str, Item | InnerList], comma: str) -> str:
    return comma.join(
        f"{key}={write_inner_list(value) if isinstance(value, InnerList) else write_item(value)}"
        for key, value in members.items()
    )


def types(value: object) -> object:
    """`1 == True` in Python, and a token is a string; neither in a structured field."""
    if isinstance(value, Item | InnerList):
        inner = tuple(map(types, value.items)) if isinstance(value, InnerList) else type(value.value)
        return inner, {key: type(each) for key, each in value.parameters.items()}
    return type(value)


@given(st.dictionaries(KEYS, ITEMS | INNER_LISTS, max_size=4), st.sampled_from([",", ", ", " , ", "\t,\t"]))
def test_what_is_written_is_read(members, comma):
    found = read_dictionary(written(members, comma))
    assert found == members
    assert list(found) == list(members)  # order is part of what was signed
    assert {key: types(value) for key, value in found.items()} == {key: types(value) for key, value in members.items()}


@given(INNER_LISTS)
def test_spaces_make_no_difference(inner):
    text = write_inner_list(inner)
    (found,) = read_dictionary(f"  a=(  {text[1:]}  ").values()
    assert found == inner


@given(st.text(st.sampled_from('ab=;,() "\\:?*019-.\t\x7f\xe9'), max_size=30))
def test_whatever_is_sent_is_read_or_a_value_error(text):
    try:
        members = read_dictionary(text)
    except ValueError:
        return
    assert read_dictionary(written(members, ",")) == members


@pytest.mark.parametrize(
    ("text", "member"),
    [
        ("a", Item(True, {})),
        ("a;b", Item(True, {"b": True})),
        ("a;b=?0", Item(True, {"b": False})),
        ("a=1;  b=2", Item(1, {"b": 2})),
        ("a=-7", Item(-7, {})),
        (r'a="\"\\"', Item('"\\', {})),
        ("a=::", Item(b"", {})),
        ("a=()", InnerList((), {})),
        ("a=(  )", InnerList((), {})),
        ('a=("x"   y;z );c', InnerList((Item("x", {}), Item(Token("y"), {"z": True})), {"c": True})),
    ],
)
def test_how_members_are_written(text, member):
    (found,) = read_dictionary(text).values()
    assert found == member
    assert types(found) == types(member)


@pytest.mark.parametrize(
    "text",
    [
        *("A=1", "=1", "a=", "a= 1", "a =1", "1=1", "a=1,", ",a=1", "a=1,,b=1", "a=1 b=1", "a=1;", "a=1;B"),
        *("a=1, a=2", "a;b;b", "a=1;b=1;b=2"),
        *('a="', 'a="\\', 'a="\\x"', 'a="\t"', 'a="\x7f"', 'a="\xe9"', "a='x'"),
        *("a=(", "a=)", 'a=("x""y")', "a=(1,2)", "a=((1))", "a=(1", "a=(1)x"),
        *("a=:", "a=:A:", "a=:AAA:", "a=:AB==:", "a=:AAAA", "a=:AA AA:", "a=:AA-_:"),
        *("a=1.5", "a=1.", "a=1234567890123456", "a=--1", "a=+1", "a=?2", "a=?", "a=@1"),
        *("\ta=1", "a=1\r\n", "a=1\0", ", ".join(f"a{n}" for n in range(65)), "a=(" + "1 " * 65 + ")"),
    ],
)
def test_what_is_no_dictionary(text):
    with pytest.raises(ValueError, match=r".+"):
        read_dictionary(text)
