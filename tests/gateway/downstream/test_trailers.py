"""Trailers: fields behind a body go on in both directions, but none that would change how the message is read."""

from __future__ import annotations

import pytest

from tests.fixtures.conversation import Line, Scripted, calling, serving
from tests.fixtures.wire import OK, Target

POST = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
ASK = b"GET / HTTP/1.1\r\nHost: a\r\n"
TE = b"TE: trailers\r\nConnection: TE\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BODY = b"2\r\nok\r\n0\r\n"

FORBIDDEN = [
    b"Authorization: Bearer x",
    b"Connection: X",
    b"Content-Encoding: gzip",
    b"Content-Type: text/html",
    b"Cookie: a=b",
    b"Expect: 100-continue",
    b"Forwarded: for=1.2.3.4",
    b"Host: evil",
    b"Keep-Alive: timeout=5",
    b"Max-Forwards: 1",
    b"Proxy: evil",
    b"Set-Cookie: a=b",
    b"TE: trailers",
    b"Trailer: X",
    b"Upgrade: h2c",
    b"Via: 1.1 evil",
    b"X-Forwarded-For: 1.2.3.4",
    b"x_forwarded_for: 1.2.3.4",
    b"X-Real-IP: 1.2.3.4",
    b"X-Request-Id: 1",
    b"X-Tallygate-Consumer: evil",
    b"x_tallygate-organization: evil",
]
FRAMING = [b"Content-Length: 5", b"Transfer-Encoding: chunked"]


async def chunked(line: Line) -> None:
    while True:
        await line.head()
        await line.until(b"0\r\n")
        await line.until(b"\r\n")
        await line.say(OK)


async def through(sent: bytes) -> bytes:
    """What an upstream hears of a request whose last chunk is followed by this."""
    target = Scripted(chunked)
    async with serving(target) as edge, calling(edge) as client:
        await client.say(POST + BODY + sent)
        assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
    return target.text.partition(b"\r\n\r\n")[2]


async def back(asked: bytes, answer: bytes) -> bytes:
    """What a client hears as the body of an answer."""
    async with serving(Target([answer])) as edge, calling(edge) as client:
        await client.say(asked + b"\r\n")
        return (await client.meanwhile(0.25)).partition(b"\r\n\r\n")[2]


async def test_trailers_of_a_request_reach_the_upstream_in_order() -> None:
    assert await through(b"X-Sum: 1\r\nx-sum: 2\r\nZ:3\r\n\r\n") == BODY + b"X-Sum: 1\r\nx-sum: 2\r\nZ: 3\r\n\r\n"


async def test_a_request_without_trailers_gets_none() -> None:
    assert await through(b"\r\n") == BODY + b"\r\n"


@pytest.mark.parametrize("field", FORBIDDEN, ids=lambda field: field.partition(b":")[0].decode())
async def test_a_field_that_may_not_be_a_trailer_does_not_reach_the_upstream(field: bytes) -> None:
    assert await through(b"X-Kept: 1\r\n" + field + b"\r\n\r\n") == BODY + b"X-Kept: 1\r\n\r\n"


@pytest.mark.parametrize("field", FRAMING)
async def test_a_request_whose_trailers_speak_of_framing_is_refused(field: bytes) -> None:
    target = Scripted(chunked)
    async with serving(target) as edge, calling(edge) as client:
        await client.say(POST + BODY + field + b"\r\n\r\n")
        assert (await client.rest()).startswith(b"HTTP/1.1 400 ")
    assert not target.text.endswith(b"0\r\n\r\n"), "the upstream must not take it for whole"


@pytest.mark.parametrize("pieces", [1, 2], ids=["at once", "later"])
async def test_trailers_of_an_answer_reach_a_client_that_takes_them(pieces: int) -> None:
    async def script(line: Line) -> None:
        head = await line.head()
        assert b"\r\nTE: trailers\r\n" in head
        await line.say(ANSWER)
        if pieces == 2:
            await line.say(b"2\r\nok\r\n")
            await line.say(b"0\r\nX-Sum: 1\r\nx-sum: 2\r\n\r\n")
        else:
            await line.say(BODY + b"X-Sum: 1\r\nx-sum: 2\r\n\r\n")
        await line.gone()

    async with serving(Scripted(script)) as edge, calling(edge) as client:
        await client.say(ASK + TE + b"\r\n")
        assert b"\r\nTransfer-Encoding: chunked\r\n" in await client.hear(b"\r\n\r\n")
        assert await client.hear(b"\r\n\r\n") == BODY + b"X-Sum: 1\r\nx-sum: 2\r\n\r\n"
        assert b"\r\nConnection: TE\r\n" in edge.target.text


@pytest.mark.parametrize("asked", [ASK, ASK + b"TE: gzip\r\nConnection: TE\r\n"], ids=["no TE", "another TE"])
async def test_trailers_of_an_answer_do_not_reach_a_client_that_does_not_take_them(asked: bytes) -> None:
    body = await back(asked, ANSWER + BODY + b"X-Sum: 1\r\n\r\n")
    assert b"ok" in body
    assert b"X-Sum" not in body


async def test_trailers_never_reach_a_client_of_http_1_0() -> None:
    body = await back(b"GET / HTTP/1.0\r\n" + TE, ANSWER + BODY + b"X-Sum: 1\r\n\r\n")
    assert body.removesuffix(b"<end>") == b"ok"


async def test_the_upstream_is_not_told_of_trailers_that_the_client_does_not_take() -> None:
    async with serving(Target()) as edge, calling(edge) as client:
        await client.say(ASK + b"TE: gzip, deflate\r\nConnection: TE\r\n\r\n")
        await client.answer()
        assert b"TE:" not in edge.target.text


@pytest.mark.parametrize("field", FORBIDDEN, ids=lambda field: field.partition(b":")[0].decode())
async def test_a_field_that_may_not_be_a_trailer_does_not_reach_the_client(field: bytes) -> None:
    body = await back(ASK + TE, ANSWER + BODY + b"X-Kept: 1\r\n" + field + b"\r\n\r\n")
    assert body == BODY + b"X-Kept: 1\r\n\r\n"


@pytest.mark.parametrize("field", FRAMING)
async def test_an_answer_whose_trailers_speak_of_framing_is_a_bad_gateway(field: bytes) -> None:
    async with serving(Target([ANSWER + BODY + field + b"\r\n\r\n"])) as edge, calling(edge) as client:
        await client.say(ASK + TE + b"\r\n")
        assert (await client.answer()).startswith(b"HTTP/1.1 502 ")
        assert edge.upstream.pool.idle == 0
