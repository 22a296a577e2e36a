"""Failure: every way in which a call ends has its word, and options take these words and no others."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.body import Body, BodyTooLarge
from gateway.exchange import Request, Response
from gateway.headers import Headers
from gateway.options import FROM_FILE, Options
from gateway.problem import CircuitOpen, Overloaded, RequestTimeout
from gateway.upstream.call import response_of
from gateway.upstream.failure import Failure, failure_of, spelled_out
from gateway.upstream.upstream import Upstream
from tests.fixtures.upstream import OK, calling, calling_at


async def result_of(upstream: Upstream, body: Body | None = None) -> Exception | Response:
    request = Request("GET" if body is None else "PUT", "/", Headers())
    if body is not None:
        request.body = body
    try:
        return await response_of(lambda caller: upstream.call(request, caller))
    except Exception as error:  # noqa: BLE001 - whatever it is
        return error


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


async def closing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")


async def stammering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/9 what?\r\n\r\n")


async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(OK.replace(b"200 OK", b"503 Busy"))


@pytest.mark.parametrize(
    ("serve", "failure"), [(silent, "timeout"), (closing, "lost"), (stammering, "malformed"), (answering, 503)]
)
async def test_what_a_target_does_wrong(serve: Any, failure: str | int) -> None:
    async with calling(serve, timeouts={"first_byte": 0.05}) as upstream:
        assert failure_of(await result_of(upstream)) == failure


async def test_a_call_that_takes_too_long_is_a_timeout() -> None:
    async with calling(silent, timeouts={"total": 0.05}) as upstream:
        assert failure_of(await result_of(upstream)) == "timeout"


async def test_nobody_listens() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        async with calling_at(deaf) as upstream:
            assert failure_of(await result_of(upstream)) == "connect"


async def test_a_connection_that_does_not_come_about_in_time() -> None:
    """A full accept queue drops what else arrives, as an address behind which nothing is."""
    with socket.socket() as deaf, socket.socket() as first, socket.socket() as second:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        async with calling_at(deaf, timeouts={"connect": 0.05}) as upstream:
            assert failure_of(await result_of(upstream)) == "connect"


async def test_no_room_is_a_refusal() -> None:
    asked = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()

    async with calling(serve, max_connections=1, max_waiting=0) as upstream:
        first = asyncio.ensure_future(result_of(upstream))
        await asked.wait()
        assert failure_of(await result_of(upstream)) == "refused"
        first.cancel()
        await asyncio.wait([first])


async def test_a_body_that_breaks_off_is_not_the_upstream_s_failure() -> None:
    async with calling(silent) as upstream:
        body = Body(length=10)
        body.fail(BodyTooLarge())
        assert failure_of(await result_of(upstream, body)) is None


@pytest.mark.parametrize(
    ("problem", "failure"),
    [(Overloaded(), "refused"), (CircuitOpen(), "refused"), (RequestTimeout(), None), (ValueError(), None)],
)
def test_what_never_reached_a_target(problem: Exception, failure: str | None) -> None:
    assert failure_of(problem) == failure


class Sample(Options):
    on: list[Failure] = []


def test_options_take_words_and_statuses() -> None:
    on = ["connect", "timeout", "lost", "malformed", 500, 599]
    assert Sample.model_validate({"on": on}, context=FROM_FILE).on == on
    assert spelled_out(on) == frozenset(on)
    assert spelled_out(["lost", "5xx"]) == {"lost", *range(500, 600)}


@pytest.mark.parametrize("value", ["refused", "5XX", "503", 404, 499, 600, True, 503.5, None, ["lost"]])
def test_what_is_no_failure(value: Any) -> None:
    with pytest.raises(ValidationError, match=r"not a failure: .*5xx or a status such as 503"):
        Sample.model_validate({"on": [value]}, context=FROM_FILE)
