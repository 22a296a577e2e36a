"""Sticky sessions: a client comes back to its target, and its cookie tells nobody anything."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from gateway.exchange import Request
from gateway.upstream.sticky import Sticky, StickyOptions
from tests.fixtures.targets import make_targets, request_of


def sticky(**options: object) -> Sticky:
    return Sticky(StickyOptions.model_validate({"cookie": "route", **options}))


def coming_back(set_cookie: str | None) -> Request:
    assert set_cookie is not None
    return request_of(cookie="a=1; " + set_cookie.partition(";")[0])


def test_a_client_comes_back_to_its_target():
    targets = make_targets(1, 1, 1)
    sessions = sticky()
    sessions.use(targets)
    new = request_of()
    assert sessions.target(new) is None
    again = coming_back(sessions.set_cookie(new, targets[1]))
    assert sessions.target(again) is targets[1]
    assert sessions.set_cookie(again, targets[1]) is None, "it has the cookie already"


def test_a_client_whose_target_is_gone_gets_another():
    targets = make_targets(1, 1)
    sessions = sticky()
    sessions.use(targets)
    again = coming_back(sessions.set_cookie(request_of(), targets[0]))
    sessions.use(targets[1:])
    assert sessions.target(again) is None
    assert sessions.set_cookie(again, targets[0]) is None, "a target of the past is not remembered"
    moved = coming_back(sessions.set_cookie(again, targets[1]))
    assert sessions.target(moved) is targets[1]


def test_targets_made_anew_have_the_same_cookies():
    old, new = make_targets(1, 1), make_targets(1, 1)
    before, after = sticky(salt="s"), sticky(salt="s")
    before.use(old)
    after.use(new)
    assert after.target(coming_back(before.set_cookie(request_of(), old[1]))) is new[1]


@pytest.mark.parametrize("value", ["", "0", "x" * 5000, "%00", "http://10.0.0.1:9000"])
def test_a_made_up_cookie_is_no_cookie(value: str):
    sessions = sticky()
    targets = make_targets(1)
    sessions.use(targets)
    forged = request_of(cookie=f"route={value}")
    assert sessions.target(forged) is None
    assert sessions.set_cookie(forged, targets[0]) is not None


def test_the_value_depends_on_the_salt_and_shows_no_address():
    (target,) = make_targets(1)
    values = set()
    for salt in ("", "one", "two"):
        sessions = sticky(salt=salt)
        sessions.use([target])
        cookie = sessions.set_cookie(request_of(), target)
        assert cookie is not None
        assert target.host not in cookie
        values.add(cookie)
    assert len(values) == 3


def test_attributes_are_safe_unless_told_otherwise():
    (target,) = make_targets(1)
    for options, attributes in (
        ({}, "; Path=/; HttpOnly; Secure; SameSite=Lax"),
        (
            {"secure": False, "same_site": "strict", "max_age": "1h"},
            "; Path=/; Max-Age=3600; HttpOnly; SameSite=Strict",
        ),
    ):
        sessions = sticky(**options)
        sessions.use([target])
        assert (sessions.set_cookie(request_of(), target) or "").endswith(attributes)


@pytest.mark.parametrize(
    "options",
    [
        {"cookie": "a b"},
        {"cookie": ""},
        {"cookie": "a", "salt": "é" * 33},
        {"cookie": "a", "secure": False, "same_site": "none"},
        {"cookie": "__Host-a", "secure": False},
        {"cookie": "a", "max_age": "10ms"},
    ],
)
def test_what_browsers_would_drop_is_refused(options: dict[str, object]):
    with pytest.raises(ValidationError):
        StickyOptions.model_validate(options)
