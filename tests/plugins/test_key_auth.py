from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.clock import uuid_text
from gateway.exchange import Request
from gateway.http1.request_reader import RequestReader
from gateway.keys import digest, new_key
from gateway.path import without_parameter
from plugins.key_auth import KeyAuth
from tests.fixtures.source import Told
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


async def test_a_mistyped_key_is_looked_up_nowhere(stage: Stage):
    plugin: Any = stage.make(KeyAuth)
    asked: list[bytes] = []
    plugin._by_digest = asked.append
    for key in (WRONG_CHECKSUM, OTHER_KEY):
        await stage.play(plugin, request=ask(x_api_key=key))
    assert asked == [digest(OTHER_KEY)]


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


calmly = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None, derandomize=True
)
VISIBLE = st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f")


async def refusal(stage: Stage, request: Request, **options: Any) -> tuple[int, list[tuple[str, str]], bytes]:
    """All that a client learns from a refusal, but for the id of its request."""
    played = await stage.play(stage.make(KeyAuth, query="k", **options), request=request)
    assert played.seen_upstream is None
    assert played.exchange.consumer is None
    assert request.identity == b""
    body = played.body.replace(uuid_text(played.exchange.id).encode(), b"id")
    return played.response.status, list(played.response.headers.items()), body


@calmly
@given(place=st.integers(0, 46), character=VISIBLE, how=st.sampled_from(["replace", "insert", "delete"]))
async def test_one_wrong_character_is_refused_as_if_there_were_no_key(
    stage: Stage, place: int, character: str, how: str
) -> None:
    wrong = KEY[:place] + ("" if how == "delete" else character) + KEY[place + (how != "insert") :]
    if wrong in (KEY, OTHER_KEY):
        return
    nothing = await refusal(stage, ask())
    assert nothing[0] == 401
    assert await refusal(stage, ask(x_api_key=wrong)) == nothing
    assert await refusal(stage, ask(authorization=f"Bearer {wrong}")) == nothing
    assert await refusal(stage, ask(f"/?k={wrong}")) == nothing


@calmly
@given(
    text=st.text(VISIBLE | st.just(" "), max_size=60), place=st.sampled_from(["header", "bearer", "query", "scheme"])
)
async def test_whatever_else_is_there_is_refused_in_the_same_words(stage: Stage, text: str, place: str) -> None:
    requests = {
        "header": ask(x_api_key=text),
        "bearer": ask(authorization=f"Bearer {text}"),
        "scheme": ask(authorization=text),
        "query": ask(f"/?k={text}"),
    }
    assert await refusal(stage, requests[place]) == await refusal(stage, ask())


PRESENTED = st.sampled_from([KEY, KEY, KEY, OTHER_KEY, KEY[:-1] + "-", KEY.lower(), ""])
OTHER_CREDENTIALS = ["Basic YTpi", "Bearer e.y.J", "Bearer", "", f"Basic {KEY}", f"Bearer{KEY}"]


def arriving(fields: list[str], credentials: list[str], values: list[str]) -> list[Request]:
    """The same request twice on one connection: the second is made of what the reader and Headers remember."""
    lines = [f"x-api-key: {each}\r\n" for each in fields] + [f"Authorization: {each}\r\n" for each in credentials]
    target = "/?" + "&".join(["a=b", *(f"k={value}" for value in values)])
    wire = f"GET {target} HTTP/1.1\r\nHost: a\r\n{''.join(lines)}\r\n".encode()
    reader = RequestReader(Told(), 65536)
    requests = [reader.feed(wire + wire), reader.resume()]
    return [request for request in requests if request is not None]


@calmly
@given(
    fields=st.lists(PRESENTED, max_size=2),
    tokens=st.lists(PRESENTED.map("Bearer {}".format) | st.sampled_from(OTHER_CREDENTIALS), max_size=2),
    values=st.lists(PRESENTED, max_size=2),
    forward=st.booleans(),
    bearer=st.booleans(),
)
async def test_whoever_presents_one_known_key_and_no_other_is_let_in(
    stage: Stage, fields: list[str], tokens: list[str], values: list[str], forward: bool, bearer: bool
) -> None:
    """And the key is not seen upstream, wherever it was, unless it is to be forwarded."""
    presented = {*fields, *values}
    if bearer:
        presented |= {token.split()[1] for token in tokens if token.startswith("Bearer tg_")}
    known = presented in ({KEY}, {OTHER_KEY}) and not (bearer and len(tokens) > 1)
    plugin = stage.make(KeyAuth, query="k", forward=forward, bearer=bearer)
    requests = arriving(fields, tokens, values)
    assert len(requests) == 2
    for request in requests:
        before = list(request.headers.items()), request.target
        played = await stage.play(plugin, request=request)
        assert (played.response.status, played.exchange.consumer is not None) == (
            (200, True) if known else (401, False)
        )
        if played.seen_upstream is None:
            continue
        after = list(played.seen_upstream.headers.items()), played.seen_upstream.target
        if forward:
            assert after == before
        else:
            seen = [value for _, value in after[0] if value not in (OTHER_CREDENTIALS if bearer else tokens)]
            assert not any(each in "".join([*seen, after[1]]) for each in presented)
            assert after[1] == "/?a=b"
