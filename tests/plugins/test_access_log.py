from __future__ import annotations

import pytest

from gateway.clock import uuid_text
from gateway.exchange import Exchange, Response
from gateway.problem import BadGateway
from plugins.access_log import AccessLog
from plugins.key_auth import KeyAuth
from tests.play import KEY, Stage, ask


async def test_a_line_says_who_asked_for_what_and_what_came_of_it(stage: Stage):
    request = ask("/books/7?author=Ann&x", "POST", x_api_key=KEY, user_agent="curl/8")
    request.client, request.host = "192.0.2.7", "api.example.com"
    played = await stage.play(
        stage.make(AccessLog), stage.make(KeyAuth), request=request, answer=Response(201, {}, b"made")
    )
    (line,) = stage.access_log.lines
    assert line["request_id"] == uuid_text(played.exchange.id)
    said = {
        name: line[name] for name in ("client", "method", "host", "path", "route", "status", "outcome", "bytes_out")
    }
    assert said == {
        "client": "192.0.2.7",
        "method": "POST",
        "host": "api.example.com",
        "path": "/books/7?author=&x",
        "route": "r",
        "status": 201,
        "outcome": "ok",
        "bytes_out": 4,
    }
    assert (line["consumer"], line["organization"], line["key"]) == ("bob", "acme", "k1")
    assert line["user_agent"] == "curl/8"
    assert line["duration_ms"] >= line["upstream_ms"] >= 0
    assert line["gateway_ms"] >= 0
    assert line["time"].endswith("Z")


@pytest.mark.parametrize(
    ("sent", "headed", "said"),
    [
        (10.25, 11.0, {"upstream_ms": 750.0, "body_ms": 2000.0, "gateway_ms": 250.0}),
        (10.25, 0.0, {"upstream_ms": 2750.0, "body_ms": 0.0, "gateway_ms": 250.0}),
        (0.0, 0.0, {"upstream_ms": 0.0, "body_ms": 0.0, "gateway_ms": 3000.0}),
    ],
    ids=["answered", "never answered", "not called"],
)
async def test_the_time_of_a_slow_upstream_is_not_the_gateways(
    stage: Stage, sent: float, headed: float, said: dict[str, float]
):
    exchange = Exchange(ask(), stage.clock)
    exchange.started_at, exchange.finished_at = 10.0, 13.0
    exchange.upstream_sent_at, exchange.upstream_headed_at = sent, headed
    stage.make(AccessLog).on_finish(exchange)
    (line,) = stage.access_log.lines
    assert {name: line[name] for name in said} == said
    assert line["duration_ms"] == 3000.0


async def test_a_line_holds_no_secret(stage: Stage):
    request = ask(f"/?api_key={KEY}", x_api_key=KEY, authorization="Basic c2VjcmV0", cookie="session=secret")
    await stage.play(stage.make(AccessLog), stage.make(KeyAuth, query="api_key"), request=request)
    text = str(stage.access_log.lines)
    assert KEY not in text
    assert "c2VjcmV0" not in text
    assert "session" not in text


async def test_query_values_are_logged_when_asked_for(stage: Stage):
    await stage.play(stage.make(AccessLog, query=True), request=ask("/?a=1&b=2"))
    assert stage.access_log.lines[0]["path"] == "/?a=1&b=2"


async def test_long_values_are_cut(stage: Stage):
    await stage.play(stage.make(AccessLog), request=ask("/" + "a" * 5000, user_agent="u" * 5000))
    line = stage.access_log.lines[0]
    assert len(line["path"]) == len(line["user_agent"]) == 512


async def test_refusals_and_failures_have_a_line_too(stage: Stage):
    await stage.play(stage.make(AccessLog), stage.make(KeyAuth))
    await stage.play(stage.make(AccessLog), answer=BadGateway())
    assert [line["status"] for line in stage.access_log.lines] == [401, 502]
    assert stage.access_log.lines[0]["consumer"] is None


async def test_a_client_that_left_has_a_line(stage: Stage):
    await stage.play(stage.make(AccessLog), pieces=[b"ab", b"cd"], broken="client_gone")
    line = stage.access_log.lines[0]
    assert (line["outcome"], line["bytes_out"]) == ("client_gone", 2)
