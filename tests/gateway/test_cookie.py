"""Cookies: found among others, and written so that scripts and other sites do not get at them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cookie import read_cookie, without_cookie, write_cookie
from gateway.headers import Headers


@pytest.mark.parametrize(
    ("lines", "value"),
    [
        (["sid=1"], "1"),
        (["a=0; sid=1; sid=2"], "1"),
        (["a=0", "sid=1"], "1"),
        (['sid="1"'], "1"),
        (["xsid=0;sid=a=b"], "a=b"),
        (["sid="], ""),
        (["sid"], None),
        (["SID=1"], None),
        ([], None),
    ],
)
def test_a_cookie_is_found(lines: list[str], value: str | None):
    assert read_cookie(Headers([("cookie", line) for line in lines]), "sid") == value


@pytest.mark.parametrize(
    ("field", "rest", "values"),
    [
        ("sid=1", "", ["1"]),
        ('a=0; sid=1; b=2;sid="3"', "a=0; b=2", ["1", "3"]),
        ("xsid=0;  sid", "xsid=0; sid", []),
        ("SID=1", "SID=1", []),
    ],
)
def test_cookies_are_taken_out_of_a_field(field: str, rest: str, values: list[str]):
    assert without_cookie(field, "sid") == (rest, values)


@given(st.text(alphabet="abcXYZ019!#$%&'()*+-./:<=>?@[]^_`{|}~", max_size=20))
def test_what_is_written_reads_as_itself(value: str):
    line = write_cookie("sid", value)
    assert read_cookie(Headers([("cookie", line.partition("; ")[0])]), "sid") == value


@pytest.mark.parametrize("value", ["a b", "a;b", "a,b", 'a"b', "a\\b", "é", "a\nb"])
def test_what_no_cookie_can_hold_is_refused(value: str):
    with pytest.raises(ValueError, match="not the value of a cookie"):
        write_cookie("sid", value)


def test_attributes_are_safe_unless_told_otherwise():
    assert write_cookie("sid", "1") == "sid=1; Path=/; HttpOnly; Secure; SameSite=Lax"
    told = write_cookie("sid", "1", max_age=3600.0, secure=False, same_site="strict")
    assert told == "sid=1; Path=/; Max-Age=3600; HttpOnly; SameSite=Strict"
