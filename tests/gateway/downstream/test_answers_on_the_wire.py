"""Answers: what a client hears of what an upstream said, whichever versions the two speak."""

from __future__ import annotations

import asyncio

import pytest

from tests.fixtures.conversation import Line, Scripted, calling, serving
from tests.fixtures.heads import answered, asked, named
from tests.fixtures.wire import OK, Target

HOST = b"Host: a.example\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST


async def test_names_order_and_repetition_of_fields_stay_as_they_are() -> None:
    mine = [
        b"x-LOWER: 1",
        b"Set-Cookie: a=1",
        b'ETag:  "x"',
        b"SET-COOKIE: b=2; Path=/",
        b"Set-Cookie: a=1",
        b"X-Y: \xe4",
    ]
    _, fields = await answered(b"HTTP/1.1 200 OK\r\n" + b"\r\n".join(mine) + b"\r\nContent-Length: 0\r\n\r\n")
    assert fields[: len(mine)] == mine
    _, fields = await asked(GET + b"\r\n".join(mine) + b"\r\n\r\n")
    assert [field for field in fields if field in mine] == mine


async def test_a_date_that_is_there_is_kept_and_one_that_is_missing_is_added() -> None:
    date = b"Tue, 15 Nov 1994 08:12:31 GMT"
    _, fields = await answered(OK.replace(b"\r\n\r\n", b"\r\ndate: " + date + b"\r\n\r\n"))
    assert named(fields, b"date") == [date]
    _, fields = await answered(OK)
    (added,) = named(fields, b"date")
    assert added.endswith(b" GMT")
    assert added != date


@pytest.mark.parametrize("line", [b"200 OK", b"200 Fine by me", b"299 Odd", b"404 ", b"599 \xe4"])
async def test_status_and_reason_go_on(line: bytes) -> None:
    start, _ = await answered(b"HTTP/1.0 " + line + b"\r\nContent-Length: 0\r\n\r\n")
    assert start == b"HTTP/1.1 " + line


@pytest.mark.parametrize(
    ("framing", "kept"), [(b"Content-Length: 5", [b"5"]), (b"Transfer-Encoding: chunked", []), (b"X-None: 1", [])]
)
async def test_the_answer_to_head_has_the_fields_and_no_body(framing: bytes, kept: list[bytes]) -> None:
    ask = b"HEAD / HTTP/1.1\r\n" + HOST + b"\r\n"
    async with serving(Target([b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n"])) as edge, calling(edge) as client:
        for _ in range(2):
            await client.say(ask)
            fields = (await client.hear(b"\r\n\r\n")).split(b"\r\n")
            assert named(fields, b"content-length") == kept
            assert named(fields, b"connection") == []
        assert await client.meanwhile(0.1) == b""
        assert len(edge.target.heard) == 1, "the connection to the upstream can be used again"


@pytest.mark.parametrize(
    ("status", "framing", "kept"),
    [
        (b"204 No Content", b"", []),
        (b"204 No Content", b"Content-Length: 0\r\n", []),
        (b"304 Not Modified", b"", []),
        (b"304 Not Modified", b"Content-Length: 5\r\nETag: x\r\n", [b"5"]),
    ],
)
async def test_an_answer_that_cannot_have_a_body_ends_with_its_head(
    status: bytes, framing: bytes, kept: list[bytes]
) -> None:
    async with serving(Target([b"HTTP/1.1 " + status + b"\r\n" + framing + b"\r\n"])) as edge, calling(edge) as client:
        for _ in range(2):
            await client.say(GET + b"\r\n")
            head = await client.hear(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 " + status)
            assert named(head.split(b"\r\n"), b"content-length") == kept
            assert b"Transfer-Encoding" not in head
        assert len(edge.target.heard) == 1


# HTTP/1.0

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"


async def test_a_client_of_http_1_0_is_closed_after_its_answer() -> None:
    async with serving(Target()) as edge, calling(edge) as client:
        await client.say(b"GET / HTTP/1.0\r\n\r\n")
        back = await client.rest()
        assert b"\r\nConnection: close\r\n" in back
        assert back.endswith(b"\r\n\r\nok<end>")
        assert edge.target.text.startswith(b"GET / HTTP/1.1\r\n")


async def test_a_client_of_http_1_0_that_asks_for_it_is_kept() -> None:
    async with serving(Target()) as edge, calling(edge) as client:
        for _ in range(2):
            await client.say(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
            back = await client.answer()
            assert b"\r\nConnection: keep-alive\r\n" in back
            assert back.endswith(b"\r\n\r\nok")


@pytest.mark.parametrize("late", [False, True], ids=["at once", "in pieces"])
async def test_a_client_of_http_1_0_gets_no_chunks(late: bool) -> None:
    async def script(line: Line) -> None:
        await line.head()
        if late:
            await line.say(CHUNKED[:-9])
            await asyncio.sleep(0.05)
            await line.say(CHUNKED[-9:])
        else:
            await line.say(CHUNKED)
        await line.gone()

    async with serving(Scripted(script)) as edge, calling(edge) as client:
        await client.say(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        back = (await client.rest()) if late else (await client.answer())
        assert b"Transfer-Encoding" not in back
        assert back.removesuffix(b"<end>").endswith(b"\r\n\r\nok")


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_close_is_of_one_hop(version: bytes) -> None:
    """What a client or an upstream says about its own connection is not said about the other one."""
    target = Target([b"HTTP/" + version + b" 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"])
    async with serving(target) as edge, calling(edge) as client:
        for _ in range(2):
            await client.say(GET + b"\r\n")
            assert b"Connection" not in await client.answer()
        await client.say(GET + b"Connection: close\r\n\r\n")
        assert b"\r\nConnection: close\r\n" in await client.rest()
        assert b"Connection" not in target.text
        assert len(target.heard) == 3
