from __future__ import annotations

import pytest

from gateway.clock import uuid_text
from plugins.request_id import RequestId
from tests.play import Stage, ask


async def test_client_and_upstream_hear_the_id_of_the_exchange(stage: Stage):
    played = await stage.play(stage.make(RequestId))
    expected = uuid_text(played.exchange.id)
    assert played.response.headers["x-request-id"] == expected
    assert played.seen_upstream is not None
    assert played.seen_upstream.headers.getall("x-request-id") == [expected]


async def test_a_clients_id_is_replaced(stage: Stage):
    played = await stage.play(stage.make(RequestId), request=ask(x_request_id="mine"))
    assert played.response.headers["x-request-id"] == uuid_text(played.exchange.id)


async def test_a_trusted_id_is_kept(stage: Stage):
    played = await stage.play(stage.make(RequestId, trust=True), request=ask(x_request_id="abc-1.2_3"))
    assert played.response.headers["x-request-id"] == "abc-1.2_3"


@pytest.mark.parametrize("claim", ["", "a b", "x" * 129, "ü", "a;b"])
async def test_what_is_no_id_is_not_trusted(stage: Stage, claim: str):
    played = await stage.play(stage.make(RequestId, trust=True), request=ask(x_request_id=claim))
    assert played.response.headers["x-request-id"] == uuid_text(played.exchange.id)


async def test_two_ids_are_none(stage: Stage):
    request = ask(x_request_id="a")
    request.headers.add("X-Request-Id", "b")
    played = await stage.play(stage.make(RequestId, trust=True), request=request)
    assert played.response.headers["x-request-id"] == uuid_text(played.exchange.id)


async def test_the_header_can_be_named(stage: Stage):
    played = await stage.play(stage.make(RequestId, header="X-Correlation"))
    assert "x-correlation" in played.response.headers
    assert "x-request-id" not in played.response.headers


def test_a_header_that_is_none_is_refused(stage: Stage):
    with pytest.raises(ValueError, match="not the name of a header field"):
        stage.make(RequestId, header="no spaces")
