"""Request bodies on their way: limits, backpressure, and clients that leave in the middle."""

from __future__ import annotations

import asyncio
import random

import pytest

from gateway.body import HIGH_WATER
from gateway.exchange import Exchange, Response
from tests.fixtures.conversation import Line, Scripted, calling, eventually, serving, silence
from tests.fixtures.wire import OK, Alone, Target

ASK = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
EXPECT = POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
NO = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"


class Reading(Alone):
    """Reads the body before the upstream is called, after a while."""

    def __init__(self, after: float = 0.0, limit: int = 2**20) -> None:
        self._after = after
        self._limit = limit

    async def on_request(self, exchange: Exchange) -> Response | None:
        await asyncio.sleep(self._after)
        await exchange.request.body.read(self._limit)
        return None


def content(heard: bytes) -> bytes:
    """The content of a chunked body, whose trailers are none."""
    body, rest = b"", heard.partition(b"\r\n\r\n")[2]
    while True:
        line, _, rest = rest.partition(b"\r\n")
        size = int(line, 16)
        if not size:
            assert rest == b"\r\n"
            return body
        body, rest = body + rest[:size], rest[size + 2 :]


# How large


async def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_sent() -> None:
    async with serving(Target(), route={"max_body": "1KiB"}) as edge, calling(edge) as client:
        await client.say(POST + b"Content-Length: 1025\r\n\r\n")
        back = await client.answer()
        assert back.startswith(b"HTTP/1.1 413 ")
        assert b"\r\nConnection: close\r\n" in back
        assert edge.target.heard == []


async def test_the_refusal_reaches_a_client_that_sends_it_all_regardless() -> None:
    async with serving(Target(), route={"max_body": "1KiB"}) as edge, calling(edge) as client:
        await client.say(POST + b"Content-Length: 8000000\r\n\r\n")
        await client.say(b"a" * 8_000_000)
        back = await client.rest()
        assert back.startswith(b"HTTP/1.1 413 ")
        assert back.endswith(b"}<end>")
        assert edge.target.heard == []


async def test_a_client_that_would_be_refused_is_not_invited() -> None:
    async with serving(Target(), route={"max_body": 4}) as edge, calling(edge) as client:
        await client.say(EXPECT)
        assert (await client.answer()).startswith(b"HTTP/1.1 413 ")
        assert edge.target.heard == []


@pytest.mark.parametrize(
    "sent",
    [POST + b"Content-Length: 8\r\n\r\n12345678", CHUNKED + b"4\r\n1234\r\n4\r\n5678\r\n0\r\n\r\n"],
    ids=["length", "chunked"],
)
async def test_a_body_as_large_as_may_be_is_served(sent: bytes) -> None:
    async with serving(Target(), route={"max_body": 8}) as edge, calling(edge) as client:
        await client.say(sent)
        assert (await client.answer()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_body_too_large_that_is_here_at_once_is_refused_and_nothing_of_it_goes_on(framing: str) -> None:
    body = POST + b"Content-Length: 9\r\n\r\n123456789"
    if framing == "chunked":
        body = CHUNKED + b"9\r\n123456789\r\n0\r\n\r\n"
    async with serving(Scripted(silence), route={"max_body": 8}) as edge, calling(edge) as client:
        await client.say(body)
        assert (await client.answer(2.0)).startswith(b"HTTP/1.1 413 ")
        assert edge.target.heard == []


async def test_a_body_too_large_does_not_swallow_the_request_after_it() -> None:
    async def early(line: Line) -> None:
        """Answers a request before it has its body, as many servers do."""
        await line.head()
        await line.say(NO)
        await line.exactly(len(ASK))
        await line.gone()

    async with serving(Scripted(early), route={"max_body": 8}) as edge:
        async with calling(edge) as client:
            await client.say(POST + b"Content-Length: 99\r\n\r\n" + b"a" * 99)
            await client.answer()
        async with calling(edge) as client:
            await client.say(ASK)
            assert (await client.answer(2.0)).startswith(b"HTTP/1.1 403 ")


async def test_a_body_that_is_not_valid_from_the_start_is_refused_and_nothing_of_it_goes_on() -> None:
    async with serving(Target()) as edge, calling(edge) as client:
        await client.say(CHUNKED + b"5\r\nhello\r\nxyz\r\n")
        assert (await client.answer()).startswith(b"HTTP/1.1 400 ")
        assert edge.target.heard == []


async def test_a_body_that_breaks_while_its_request_waits_for_a_connection_does_not_cost_that_connection() -> None:
    async def slow(line: Line) -> None:
        await line.head()
        await asyncio.sleep(0.3)
        await line.say(OK)
        await line.head()
        await line.say(OK)
        await line.gone()

    target = Scripted(slow)
    async with serving(target, upstream={"max_connections": 1}) as edge:
        async with calling(edge) as first, calling(edge) as second:
            await first.say(ASK)
            assert await eventually(lambda: b"\r\n\r\n" in target.text)
            await second.say(CHUNKED + b"5\r\nhello\r\n")
            await asyncio.sleep(0.1)
            await second.say(b"xyz\r\n")
            assert (await second.answer()).startswith(b"HTTP/1.1 400 ")
            await first.answer()
            await first.say(ASK)
            assert (await first.answer()).startswith(b"HTTP/1.1 200 ")
        assert len(target.heard) == 1
        assert b"hello" not in target.text


async def becomes_too_large(over: bytes) -> None:
    async def patient(line: Line) -> None:
        if b"chunked" in await line.head():
            await line.gone()
        else:
            await line.say(OK)
            await line.gone()

    target = Scripted(patient)
    async with serving(target, route={"max_body": "1KiB"}) as edge:
        async with calling(edge) as client:
            await client.say(CHUNKED + b"200\r\n" + b"a" * 512 + b"\r\n")
            assert await eventually(lambda: target.text.endswith(b"a\r\n"))
            await client.say(over)
            back = await client.rest(2.0)
        assert back.startswith(b"HTTP/1.1 413 ")
        assert b"\r\nConnection: close\r\n" in back
        assert await eventually(lambda: target.closed == 1)
        assert b"b" not in target.text.partition(b"\r\n\r\n")[2]
        assert not target.text.endswith(b"0\r\n\r\n")
        async with calling(edge) as client:
            await client.say(ASK)
            assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
        assert len(target.heard) == 2


async def test_a_body_that_becomes_too_large_never_looks_whole_and_its_connection_is_not_used_again() -> None:
    await becomes_too_large(b"201\r\n" + b"b" * 513)


async def test_a_body_that_becomes_too_large_with_its_last_bytes_never_looks_whole() -> None:
    await becomes_too_large(b"201\r\n" + b"b" * 513 + b"\r\n0\r\n\r\n")


async def test_a_body_too_large_for_a_plugin_is_refused() -> None:
    async with serving(Target(), Reading(limit=8)) as edge, calling(edge) as client:
        await client.say(CHUNKED + b"9\r\n123456789\r\n")
        assert (await client.hear(b"}")).startswith(b"HTTP/1.1 413 ")
        assert edge.target.heard == []


# Whole


@pytest.mark.parametrize("size", [1, HIGH_WATER - 1, HIGH_WATER + 1, 3_000_000])
async def test_a_body_arrives_as_it_was_sent(size: int) -> None:
    sent = random.Random(size).randbytes(size)

    async def whole(line: Line) -> None:
        if b"chunked" in await line.head():
            await line.until(b"\r\n0\r\n\r\n")
        else:
            await line.exactly(size)
        await line.say(OK)
        await line.gone()

    target = Scripted(whole)
    async with serving(target) as edge, calling(edge) as client:
        await client.say(POST + b"Content-Length: %d\r\n\r\n" % size + sent)
        await client.answer()
        assert target.text.endswith(b"\r\n\r\n" + sent)
        assert b"\r\nContent-Length: %d\r\n" % size in target.text
    target = Scripted(whole)
    async with serving(target) as edge, calling(edge) as client:
        pieces = [sent[place : place + 70_000] for place in range(0, size, 70_000)]
        await client.say(CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n")
        await client.answer()
        assert b"\r\nTransfer-Encoding: chunked\r\n" in target.text
        assert content(target.text) == sent


async def test_a_request_right_behind_a_body_is_answered_too() -> None:
    async with serving(Target()) as edge, calling(edge) as client:
        await client.say(POST + b"Content-Length: 5\r\n\r\nhello" + ASK)
        assert (await client.answer()).endswith(b"ok")
        assert (await client.answer()).endswith(b"ok")


async def test_a_connection_goes_on_after_a_body_that_had_to_wait() -> None:
    async with serving(Target(), Reading(after=0.3)) as edge, calling(edge) as client:
        await client.say(POST + b"Content-Length: %d\r\n\r\n" % (HIGH_WATER + 1) + b"a" * (HIGH_WATER + 1))
        assert (await client.answer()).endswith(b"ok")
        await client.say(ASK)
        assert (await client.answer(2.0)).endswith(b"ok")


@pytest.mark.parametrize(("method", "said"), [(b"POST", True), (b"PUT", True), (b"GET", False), (b"DELETE", False)])
async def test_where_content_is_usual_its_absence_is_said(method: bytes, said: bool) -> None:
    async with serving(Target()) as edge, calling(edge) as client:
        await client.say(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.answer()
        assert (b"\r\nContent-Length: 0\r\n" in edge.target.text) == said


# Backpressure and leaving


@pytest.mark.parametrize("framing", [b"Content-Length: 67108864\r\n", b"Transfer-Encoding: chunked\r\n"])
async def test_an_upstream_that_does_not_read_stops_the_client(framing: bytes) -> None:
    go_on = asyncio.Event()
    size = 64 * 2**20

    async def late(line: Line) -> None:
        await line.head()
        await go_on.wait()
        await (line.exactly(size) if b"Content-Length" in framing else line.until(b"\r\n0\r\n\r\n"))
        await line.say(OK)

    chunk = b"10000\r\n" + b"a" * 65536 + b"\r\n"
    body = b"a" * size if b"Content-Length" in framing else chunk * (size // 65536) + b"0\r\n\r\n"
    async with serving(Scripted(late)) as edge, calling(edge) as client:
        await client.say(POST + framing + b"\r\n")
        taken = await client.say_while_taken(body)
        assert HIGH_WATER < taken < size * 3 / 4
        go_on.set()
        saying = asyncio.create_task(client.say(body[taken:]))
        assert (await client.answer(20.0)).endswith(b"ok")
        await saying


@pytest.mark.parametrize("on_disconnect", ["cancel", "drain"])
@pytest.mark.parametrize("abruptly", [False, True], ids=["closes", "resets"])
async def test_a_client_that_leaves_in_its_body_ends_the_call(on_disconnect: str, abruptly: bool) -> None:
    target = Scripted(silence)
    async with serving(target, route={"on_disconnect": on_disconnect}) as edge, calling(edge) as client:
        await client.say(CHUNKED + b"5\r\nhello\r\n")
        assert await eventually(lambda: target.text.endswith(b"hello\r\n"))
        client.vanish() if abruptly else client.close()
        assert await eventually(lambda: target.closed == 1)
        assert target.text.endswith(b"hello\r\n"), "what has no end must not get one"
        assert await eventually(lambda: repr(edge.upstream.pool) == "Pool(0 active, 0 idle, 0 waiting)")
