from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.exchange import Response
from plugins.cors import Cors, _pattern
from plugins.key_auth import KeyAuth
from tests.fixtures.wire import Edge, Target
from tests.play import Played, Stage, ask

APP = "https://app.example.com"


async def preflight(stage: Stage, origin: str = APP, method: str = "PUT", **options: Any) -> Played:
    request = ask("/", "OPTIONS", origin=origin, access_control_request_method=method)
    return await stage.play(stage.make(Cors, **{"origins": [APP]} | options), request=request)


async def call(stage: Stage, origin: str | None = APP, answer: Response | None = None, **options: Any) -> Played:
    request = ask("/", "GET") if origin is None else ask("/", "GET", origin=origin)
    return await stage.play(stage.make(Cors, **{"origins": [APP]} | options), request=request, answer=answer)


def said(played: Played) -> dict[str, str]:
    """What is said to browsers and caches."""
    return {
        name.lower(): value
        for name, value in played.response.headers.items()
        if name.lower().startswith("access-control-") or name.lower() == "vary"
    }


async def test_a_preflight_is_answered_here(stage: Stage):
    played = await preflight(stage, credentials=True, max_age="2h", headers=["X-Api-Key"], methods=["GET", "PUT"])
    assert played.response.status == 204
    assert played.seen_upstream is None
    assert said(played) == {
        "access-control-allow-origin": APP,
        "access-control-allow-methods": "GET, PUT",
        "access-control-allow-headers": "X-Api-Key",
        "access-control-allow-credentials": "true",
        "access-control-max-age": "7200",
        "vary": "Origin",
    }


async def test_a_preflight_of_a_stranger_is_refused(stage: Stage):
    played = await preflight(stage, "https://evil.example")
    assert played.response.status == 403
    assert said(played) == {"vary": "Origin"}


async def test_other_options_go_to_the_upstream(stage: Stage):
    for fields in ({}, {"origin": APP}, {"access_control_request_method": "PUT"}):
        played = await stage.play(stage.make(Cors, origins=[APP]), request=ask("/", "OPTIONS", **fields))
        assert played.seen_upstream is not None


async def test_a_private_network_opens_only_if_asked_and_told(stage: Stage):
    for option in (False, True):
        for asked in ("true", "1"):
            request = ask("/", "OPTIONS", origin=APP, access_control_request_method="GET")
            request.headers["Access-Control-Request-Private-Network"] = asked
            plugin = stage.make(Cors, origins=[APP], private_network=option)
            opened = "access-control-allow-private-network" in said(await stage.play(plugin, request=request))
            assert opened is (option and asked == "true")


async def test_a_page_may_read_the_answer(stage: Stage):
    played = await call(stage, credentials=True, expose=["X-Units", "X-Pages"])
    assert said(played) == {
        "access-control-allow-origin": APP,
        "access-control-allow-credentials": "true",
        "access-control-expose-headers": "X-Units, X-Pages",
        "vary": "Origin",
    }


@pytest.mark.parametrize("origin", [None, "https://evil.example", "null", APP + ":8443", APP.replace("s", "S", 1)])
async def test_others_are_served_and_their_browser_told_nothing(stage: Stage, origin: str | None):
    played = await call(stage, origin, credentials=True, expose=["X-Units"])
    assert played.response.status == 200
    assert said(played) == {"vary": "Origin"}


@pytest.mark.parametrize("origin", [None, APP])
async def test_an_api_for_all_says_so_to_all_alike(stage: Stage, origin: str | None):
    played = await call(stage, origin, origins=["*"], expose=["*"])
    assert said(played) == {"access-control-allow-origin": "*", "access-control-expose-headers": "*"}
    assert said(await preflight(stage, "null", origins=["*"]))["access-control-allow-origin"] == "*"


async def test_what_the_upstream_says_is_taken_out(stage: Stage):
    fields = [("Access-Control-Allow-Origin", "*"), ("Access-Control-Max-Age", "1"), ("Vary", "Accept, origin")]
    played = await call(stage, answer=Response(200, dict(fields)))
    assert said(played) == {"access-control-allow-origin": APP, "vary": "Accept, origin"}
    played = await call(stage, None, answer=Response(200, {"access-control-allow-origin": APP, "vary": "Accept"}))
    assert said(played) == {"vary": "Accept, Origin"}
    played = await call(stage, None, answer=Response(200, {"vary": "*"}))
    assert said(played) == {"vary": "*"}


async def test_a_refusal_can_be_read_too(stage: Stage):
    request = ask("/", "GET", origin=APP)
    played = await stage.play(stage.make(Cors, origins=[APP]), stage.make(KeyAuth), request=request)
    assert played.response.status == 401
    assert said(played) == {"access-control-allow-origin": APP, "vary": "Origin"}


@pytest.mark.parametrize(
    ("origin", "may"),
    [
        ("https://a.example.com", True),
        ("https://a.b.example.com", True),
        ("https://example.com", False),
        ("https://evilexample.com", False),
        ("https://a.exampleXcom", False),
        ("https://a.example.com.evil.org", False),
        ("https://evil.org/.example.com", False),
        ("https://evil.org?.example.com", False),
        ("https://.example.com", False),
        ("https://a..example.com", False),
        ("http://a.example.com", False),
        ("https://a.example.com:8443", False),
        ("https://a.example.com ", False),
        ("http://x.localhost:3000", True),
        ("http://localhost:3000", False),
        ("http://[::1]:3000", True),
        ("null", True),
    ],
)
async def test_subdomains_are_those_of_the_host_and_no_other(stage: Stage, origin: str, may: bool):
    origins = ["https://*.example.com", "http://*.localhost:3000", "http://[::1]:3000", "null"]
    played = await call(stage, origin, origins=origins)
    assert (said(played).get("access-control-allow-origin") == origin) is may


@given(st.from_regex(_pattern("https://*.example.com"), fullmatch=True))
def test_whatever_matches_is_a_host_below(origin: str):
    assert origin.startswith("https://")
    assert origin.endswith(".example.com")
    assert not {"/", "?", "#", "@", ":"} & set(origin.removeprefix("https://"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"origins": []}, "at least 1 item"),
        ({"origins": ["*", APP]}, "list it alone"),
        ({"origins": ["app.example.com"]}, "not an origin"),
        ({"origins": [APP + "/"]}, "not an origin"),
        ({"origins": [APP + ":443"]}, "not an origin"),
        ({"origins": ["http://a.example.com:80"]}, "not an origin"),
        ({"origins": ["https://a.*.example.com"]}, "not an origin"),
        ({"origins": ["https://*"]}, "not an origin"),
        ({"origins": ["https://*.com"]}, "anybody's"),
        ({"origins": ["*"], "credentials": True}, "name the origins"),
        ({"origins": ["null"], "credentials": True}, "sandboxed"),
        ({"headers": ["*"], "credentials": True}, "name the headers"),
        ({"methods": ["*"], "credentials": True}, "name the methods"),
        ({"expose": ["*"], "credentials": True}, "name the expose"),
        ({"methods": ["get"]}, "pattern"),
        ({"headers": ["X Y"]}, "not the name of a header field"),
    ],
)
def test_what_browsers_would_not_take_is_refused(stage: Stage, options: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        stage.make(Cors, **{"origins": [APP]} | options)


def test_origins_are_compared_as_browsers_write_them(stage: Stage):
    plugin = stage.make(Cors, origins=["HTTPS://App.Example.COM"])
    assert plugin.config.origins == [APP]


async def test_on_the_wire_preflight_and_call(stage: Stage):
    edge = Edge(Target(), (stage.make(Cors, origins=["https://*.example.com"]), stage.make(KeyAuth)))
    await edge.start()
    asked = b"Host: a\r\nOrigin: https://app.example.com\r\n"
    first = await edge.ask(b"OPTIONS / HTTP/1.1\r\n%bAccess-Control-Request-Method: GET\r\n\r\n" % asked, wait=0.1)
    second = await edge.ask(b"GET / HTTP/1.1\r\n%b\r\n" % asked, wait=0.1)
    await edge.stop()
    assert first.startswith(b"HTTP/1.1 204 ")
    assert second.startswith(b"HTTP/1.1 401 ")
    for answer in (first, second):
        assert b"\r\nAccess-Control-Allow-Origin: https://app.example.com\r\n" in answer
        assert b"\r\nVary: Origin\r\n" in answer
