from __future__ import annotations

import pytest

from gateway.body import Body, BodyTooLarge
from gateway.exchange import Request
from plugins.body_limit import BodyLimit
from plugins.key_auth import KeyAuth
from tests.fixtures.wire import Edge, Target
from tests.play import Stage, ask


def sending(length: int | None, arrived: bytes = b"", route_limit: int = 1000) -> Request:
    request = ask("/", "POST")
    request.body = Body(length=length)
    request.body.limit = route_limit
    request.body.feed(arrived)
    return request


@pytest.mark.parametrize(
    ("length", "arrived", "status"), [(10, b"", 200), (11, b"", 413), (None, b"x" * 11, 413), (None, b"x" * 10, 200)]
)
async def test_a_body_that_says_or_shows_that_it_is_too_large_is_refused(
    stage: Stage, length: int | None, arrived: bytes, status: int
):
    played = await stage.play(stage.make(BodyLimit, size=10), request=sending(length, arrived))
    assert played.response.status == status
    assert (played.seen_upstream is None) == (status == 413)


async def test_a_body_that_turns_out_too_large_fails_when_it_does(stage: Stage):
    played = await stage.play(stage.make(BodyLimit, size=10), request=sending(None, b"x" * 10))
    body = played.exchange.request.body
    assert body.take() == (b"x" * 10, False)
    body.feed(b"y")
    with pytest.raises(BodyTooLarge):
        body.take()


async def test_the_limit_of_the_route_is_never_raised(stage: Stage):
    played = await stage.play(stage.make(BodyLimit, size=5000), request=sending(None))
    assert played.exchange.request.body.limit == 1000


async def test_a_request_without_a_body_costs_nothing(stage: Stage):
    played = await stage.play(stage.make(BodyLimit, size=1))
    assert played.exchange.request.body.limit > 1


async def test_behind_authentication_a_stranger_hears_only_of_that(stage: Stage):
    plugins = stage.make(KeyAuth), stage.make(BodyLimit, size=1)
    assert (await stage.play(*plugins, request=sending(100))).response.status == 401


@pytest.mark.parametrize(
    "sent",
    [
        b"Content-Length: 100000\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n" + b"7\r\nsevenup\r\n" * 2,
    ],
)
async def test_on_the_wire_the_refusal_comes_before_the_body(stage: Stage, sent: bytes):
    edge = Edge(Target(), (stage.make(BodyLimit, size=10),))
    await edge.start()
    answer = await edge.ask(b"POST / HTTP/1.1\r\nHost: a\r\n" + sent)
    await edge.stop()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"/content-too-large" in answer
