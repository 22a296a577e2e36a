"""Fallback: takes over where the upstream refused or failed, but never sends twice what must be sent once."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.exchange import Response
from gateway.metrics import Metrics
from gateway.options import FROM_FILE
from gateway.problem import BadGateway, CircuitOpen, JournalFull, Overloaded, Problem
from gateway.upstream.connection import Lost
from gateway.upstream.fallback import Fallback, FallbackOptions


def fallback(**block: Any) -> Fallback:
    return Fallback(FallbackOptions.model_validate(block, context=FROM_FILE), "books", Metrics(None))


def takes(made: Fallback, result: Exception | Response, **situation: Any) -> bool:
    return made.takes(result, **{"method": "GET", "replayable": True, **situation})


def because(cause: Exception) -> Problem:
    """A problem as the upstream makes it of what went wrong."""
    problem = BadGateway()
    problem.__cause__ = cause
    return problem


REPLY = {"status": 200, "headers": {"content-type": "application/json"}, "body": '{"books": []}'}


def test_a_fixed_reply() -> None:
    made = fallback(reply=REPLY)
    response = made.reply()
    assert (response.status, response.headers["content-type"], response.body) == (
        200,
        "application/json",
        b'{"books": []}',
    )
    response.headers["x-mine"] = "1"
    assert "x-mine" not in made.reply().headers


@pytest.mark.parametrize("block", [{"reply": REPLY}, {"upstream": "books-next"}])
@pytest.mark.parametrize(
    "result",
    [
        CircuitOpen(),
        Overloaded(),
        because(Lost("gone")),
        because(ConnectionRefusedError()),
        Response(502),
        Response(503),
    ],
)
def test_what_it_takes(block: dict[str, Any], result: Exception | Response) -> None:
    made = fallback(**block)
    assert takes(made, result)


@pytest.mark.parametrize(
    "result", [Response(200), Response(404), Response(500), JournalFull(), BadGateway(), ValueError()]
)
def test_what_it_leaves(result: Exception | Response) -> None:
    assert not takes(fallback(reply=REPLY), result)


def test_what_else_it_takes_if_it_is_said() -> None:
    made = fallback(reply=REPLY, on=["5xx"])
    assert takes(made, Response(500))
    assert takes(made, CircuitOpen())
    assert not takes(made, because(Lost("gone")))


def test_another_upstream_gets_nothing_that_was_perhaps_done_already() -> None:
    made = fallback(upstream="books-next")
    assert not takes(made, because(Lost("gone")), method="POST")
    assert not takes(made, Response(503), method="POST")
    assert takes(made, because(ConnectionRefusedError()), method="POST")
    assert takes(made, CircuitOpen(), method="POST")
    assert not takes(made, CircuitOpen(), replayable=False)


def test_a_reply_needs_no_body() -> None:
    assert takes(fallback(reply=REPLY), because(Lost("gone")), method="POST", replayable=False)


def test_it_is_counted_by_reason() -> None:
    made = fallback(reply=REPLY)
    for result in (CircuitOpen(), Response(503), Response(503), Response(200)):
        takes(made, result)
    assert [made._taken.labels("books", reason).value for reason in ("refused", "503", "200")] == [1, 2, 0]


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({}, "write one of `upstream` and `reply`"),
        ({"upstream": "a", "reply": {}}, "write one of `upstream` and `reply`"),
        ({"reply": {"status": 101}}, "greater than or equal to 200"),
        ({"reply": {"headers": {"content-length": "1"}}}, "content-length frames or directs the message"),
        ({"reply": {"headers": {"Transfer-Encoding": "chunked"}}}, "Transfer-Encoding frames or directs"),
        ({"reply": {"headers": {"x y": "1"}}}, "not the name of a header field"),
        ({"reply": {"headers": {"x": "1\r\ny: 2"}}}, "not the value of a header field"),
        ({"upstream": "a", "on": ["refused"]}, "not a failure"),
        ({"upstream": "a", "on": []}, "at least 1 item"),
    ],
)
def test_what_cannot_be(block: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        fallback(**block)
