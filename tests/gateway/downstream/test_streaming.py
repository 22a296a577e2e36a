"""Streams on the wire: each piece goes on when it comes, and a stream lasts for as long as the options let it."""

from __future__ import annotations

import asyncio

import pytest

from tests.fixtures.conversation import Line, Scripted, calling, serving

ASK = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
SECONDS = 0.6
"""Twice what `total` is, in the tests that have one."""


def head(media_type: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: " + media_type + b"\r\nTransfer-Encoding: chunked\r\n\r\n"


def piece(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def test_each_piece_goes_on_before_the_next_one_comes() -> None:
    """The upstream says the next one only when the client has heard the one before: nothing can be waiting for more."""
    heard = asyncio.Event()

    async def stream(line: Line) -> None:
        await line.head()
        await line.say(head(b"text/event-stream"))
        for number in range(20):
            heard.clear()
            await line.say(piece(b"data: %d\n\n" % number))
            await asyncio.wait_for(heard.wait(), 5)
        await line.say(b"0\r\n\r\n")
        await line.gone()

    async with serving(Scripted(stream)) as edge, calling(edge) as client:
        await client.say(ASK)
        assert b"transfer-encoding: chunked" in (await client.hear(b"\r\n\r\n")).lower()
        for number in range(20):
            assert await client.hear(piece(b"data: %d\n\n" % number)) == piece(b"data: %d\n\n" % number)
            heard.set()
        await client.hear(b"0\r\n\r\n")


async def test_the_head_of_a_stream_does_not_wait_for_its_first_piece() -> None:
    async def stream(line: Line) -> None:
        await line.head()
        await line.say(head(b"text/event-stream"))
        await line.gone()

    async with serving(Scripted(stream)) as edge, calling(edge) as client:
        await client.say(ASK)
        assert (await client.hear(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def lasting(media_type: bytes, **timeouts: object) -> bytes:
    """What a client hears of an answer in pieces that lasts for SECONDS."""

    async def stream(line: Line) -> None:
        await line.head()
        await line.say(head(media_type))
        for _ in range(int(SECONDS * 20)):
            await line.say(piece(b"x"))
            await asyncio.sleep(0.05)
        await line.say(piece(b"end") + b"0\r\n\r\n")
        await line.gone()

    options = {"timeouts": {"total": SECONDS / 2, **timeouts}}
    async with serving(Scripted(stream), upstream=options) as edge, calling(edge) as client:
        await client.say(ASK)
        return await client.meanwhile(SECONDS + 0.4)


@pytest.mark.parametrize("media_type", [b"text/event-stream", b"Application/X-NDJSON; charset=utf-8"])
async def test_a_stream_may_be_exempt_from_the_total(media_type: bytes) -> None:
    assert (await lasting(media_type, exempt_streams=True)).endswith(b"end\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    ("media_type", "exempt"), [(b"text/event-stream", False), (b"text/plain", True)], ids=["not exempt", "no stream"]
)
async def test_what_is_not_exempt_is_cut(media_type: bytes, exempt: bool) -> None:
    assert (await lasting(media_type, exempt_streams=exempt)).endswith(b"<reset>")


async def test_silence_ends_a_stream_that_is_exempt() -> None:
    async def stream(line: Line) -> None:
        await line.head()
        await line.say(head(b"text/event-stream") + piece(b"x"))
        await line.gone()

    options = {"timeouts": {"idle": 0.2, "exempt_streams": True}}
    async with serving(Scripted(stream), upstream=options) as edge, calling(edge) as client:
        await client.say(ASK)
        assert (await client.rest()).endswith(b"1\r\nx\r\n<reset>")


async def test_an_exempt_stream_with_retries_outlasts_the_total() -> None:
    async def stream(line: Line) -> None:
        await line.head()
        await line.say(head(b"text/event-stream"))
        await asyncio.sleep(SECONDS)
        await line.say(piece(b"end") + b"0\r\n\r\n")
        await line.gone()

    options = {"timeouts": {"total": SECONDS / 2, "exempt_streams": True}, "retry": {}}
    async with serving(Scripted(stream), upstream=options) as edge, calling(edge) as client:
        await client.say(ASK)
        assert (await client.meanwhile(SECONDS + 0.4)).endswith(b"end\r\n0\r\n\r\n")
