from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.exchange import Request
from gateway.keys import new_key
from plugins.key_auth import KeyAuth, without_parameter
from tests.play import KEY, OTHER_KEY, Stage, ask

WRONG_CHECKSUM = KEY[:-1] + ("0" if KEY[-1] != "0" else "1")


@pytest.mark.parametrize(
    "request_",
    [ask(x_api_key=KEY), ask(authorization=f"Bearer {KEY}"), ask(authorization=f"bearer {KEY}"), ask(f"/?k={KEY}")],
    ids=["header", "bearer", "bearer in small letters", "query"],
)
async def test_a_key_is_found_wherever_it_may_be(stage: Stage, request_: Request):
    played = await stage.play(stage.make(KeyAuth, query="k"), request=request_)
    assert played.response.status == 200
    assert played.exchange.consumer.name == "bob"
    assert played.exchange.consumer.key == "k1"
    seen = played.seen_upstream
    assert seen is not None
    assert seen.identity == b"X-Tallygate-Consumer: bob\r\nX-Tallygate-Organization: acme\r\n"
    assert KEY not in seen.target + repr(seen.headers)


@pytest.mark.parametrize(
    "request_",
    [
        ask(),
        ask(x_api_key=""),
        ask(x_api_key=WRONG_CHECKSUM),
        ask(x_api_key=new_key("test")),
        ask(x_api_key=KEY + "x"),
        ask(x_api_key="x" * 10_000),
        ask(x_api_key="ü"),
        ask(authorization=f"Basic {KEY}"),
        ask(authorization="Bearer eyJhbGciOiJub25lIn0.e30."),
        ask(x_api_key=KEY, authorization=f"Bearer {OTHER_KEY}"),
        ask(f"/?k={OTHER_KEY}", x_api_key=KEY),
        ask(f"/?k={KEY}&k={OTHER_KEY}"),
    ],
)
async def test_everything_else_is_refused_alike(stage: Stage, request_: Request):
    played = await stage.play(stage.make(KeyAuth, query="k"), request=request_)
    assert played.response.status == 401
    assert played.response.headers["www-authenticate"] == 'Bearer realm="tallygate"'
    assert played.seen_upstream is None
    assert b"detail" not in played.body  # nothing says which part was wrong


async def test_two_fields_that_disagree_are_refused(stage: Stage):
    request = ask(x_api_key=KEY)
    request.headers.add("X-API-Key", OTHER_KEY)
    played = await stage.play(stage.make(KeyAuth), request=request)
    assert played.response.status == 401


async def test_the_same_key_twice_is_one_key(stage: Stage):
    played = await stage.play(stage.make(KeyAuth), request=ask(x_api_key=KEY, authorization=f"Bearer {KEY}"))
    assert played.response.status == 200


async def test_the_key_goes_upstream_when_asked_to(stage: Stage):
    played = await stage.play(stage.make(KeyAuth, forward=True), request=ask(x_api_key=KEY))
    assert played.seen_upstream is not None
    assert played.seen_upstream.headers["x-api-key"] == KEY


async def test_another_scheme_of_authorization_is_left_for_the_upstream(stage: Stage):
    played = await stage.play(stage.make(KeyAuth), request=ask(x_api_key=KEY, authorization="Basic YTpi"))
    assert played.seen_upstream is not None
    assert played.seen_upstream.headers["authorization"] == "Basic YTpi"


async def test_without_bearer_only_the_header_counts(stage: Stage):
    played = await stage.play(stage.make(KeyAuth, bearer=False), request=ask(authorization=f"Bearer {KEY}"))
    assert played.response.status == 401
    assert played.response.headers["www-authenticate"].startswith("ApiKey")


PAIRS = st.lists(st.tuples(st.sampled_from(["k", "K", "a", "kk"]), st.text("abc%+.", max_size=4)), max_size=6)


@given(PAIRS)
def test_taking_a_parameter_out_leaves_the_rest_as_it_was(pairs: list[tuple[str, str]]):
    query = "&".join(f"{name}={value}" for name, value in pairs)
    target, values = without_parameter(f"/p?{query}" if query else "/p", "k")
    assert values == [value for name, value in pairs if name == "k"]
    kept = [(name, value) for name, value in pairs if name != "k"]
    if values:
        assert target == ("/p?" + "&".join(f"{name}={value}" for name, value in kept) if kept else "/p")
    assert all(name != "k" for name, _ in parse_qsl(urlsplit(target).query, keep_blank_values=True))
