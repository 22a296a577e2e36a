"""Calls: which connection an upstream is called on, and how long it may take."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from gateway.exchange import Exchange
from tests.fixtures.conversation import Line, Scripted, calling, eventually, respond, serving, silence
from tests.fixtures.wire import OK, Alone, Target

ASK = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
NEW = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nnew"


class Reading(Alone):
    """Reads the body before the upstream is called."""

    async def on_request(self, exchange: Exchange) -> None:
        await exchange.request.body.read(100)


async def stale(line: Line) -> None:
    """Answers one request and closes when it hears a second."""
    await line.head()
    await line.say(OK)
    await line.head()


# Connections that are used again


async def test_a_connection_is_used_again() -> None:
    async with serving(Target()) as edge:
        for _ in range(3):
            async with calling(edge) as client:
                await client.say(ASK)
                await client.answer()
        assert len(edge.target.heard) == 1


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"DELETE", b"PUT", b"TRACE"])
async def test_what_may_be_repeated_is_when_its_connection_was_stale(method: bytes) -> None:
    async with serving(Scripted(stale, respond(b"HTTP/1.1 204 New\r\n\r\n"))) as edge, calling(edge) as client:
        await client.say(ASK)
        await client.answer()
        await client.say(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.hear(b"\r\n\r\n")).startswith(b"HTTP/1.1 204 New\r\n")
        assert len(edge.target.heard) == 2


@pytest.mark.parametrize("method", [b"POST", b"PATCH", b"PUT"])
async def test_what_may_have_been_done_is_not_done_again(method: bytes) -> None:
    """Of a PUT the body is gone: it went to the connection that was stale."""
    async with serving(Scripted(stale, respond(NEW))) as edge, calling(edge) as client:
        await client.say(ASK)
        await client.answer()
        await client.say(POST.replace(b"POST", method) + b"hello")
        assert (await client.answer()).startswith(b"HTTP/1.1 502 ")
        assert len(edge.target.heard) == 1


async def test_a_body_that_somebody_kept_is_sent_again() -> None:
    async def whole(line: Line) -> None:
        await line.head()
        await line.until(b"hello")
        await line.say(NEW)
        await line.gone()

    async with serving(Scripted(stale, whole), Reading()) as edge, calling(edge) as client:
        await client.say(ASK)
        await client.answer()
        await client.say(POST.replace(b"POST", b"PUT") + b"hello")
        assert (await client.answer()).endswith(b"new")
        assert edge.target.heard[1].endswith(b"\r\n\r\nhello")


async def test_a_connection_that_the_target_closed_meanwhile_is_not_tried() -> None:
    async def once(line: Line) -> None:
        await line.head()
        await line.say(OK)

    target = Scripted(once, respond(NEW))
    async with serving(target) as edge, calling(edge) as client:
        await client.say(ASK)
        await client.answer()
        assert await eventually(lambda: target.closed == 1)
        await asyncio.sleep(0.02)
        await client.say(b"POST / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.answer()).endswith(b"new")


async def test_bytes_on_an_idle_connection_end_it_and_never_answer_anybody() -> None:
    async def talkative(line: Line) -> None:
        await line.head()
        await line.say(OK)
        await asyncio.sleep(0.1)
        await line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        await line.gone()

    target = Scripted(talkative, respond(NEW))
    async with serving(target) as edge, calling(edge) as client:
        await client.say(ASK)
        await client.answer()
        assert await eventually(lambda: target.closed == 1)
        await client.say(ASK)
        assert (await client.answer()).endswith(b"new")
        assert await client.meanwhile(0.05) == b""


async def test_a_connection_that_nobody_uses_is_closed() -> None:
    async with serving(Scripted(respond(OK)), upstream={"keepalive_timeout": "200ms"}) as edge, calling(edge) as client:
        await client.say(ASK)
        await client.answer()
        assert await eventually(lambda: edge.target.closed == 1, 2.0)


# How long


async def test_a_target_that_nobody_can_connect_to_in_time_is_a_gateway_timeout() -> None:
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for filling in (first, second):
            filling.setblocking(False)
            filling.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        options = {"targets": [url], "timeouts": {"connect": "200ms"}}
        async with serving(Target(), upstream=options) as edge, calling(edge) as client:
            await client.say(ASK)
            assert (await client.answer(3.0)).startswith(b"HTTP/1.1 504 ")


async def test_a_target_that_nobody_listens_at_is_a_bad_gateway() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        async with serving(Target(), upstream={"targets": [url]}) as edge, calling(edge) as client:
            for _ in range(2):
                await client.say(ASK)
                assert (await client.answer()).startswith(b"HTTP/1.1 502 ")


@pytest.mark.parametrize("which", ["first_byte", "total"])
async def test_a_target_that_is_silent_is_a_gateway_timeout(which: str) -> None:
    target = Scripted(silence)
    async with serving(target, upstream={"timeouts": {which: "200ms"}}) as edge, calling(edge) as client:
        await client.say(ASK)
        assert (await client.answer(3.0)).startswith(b"HTTP/1.1 504 ")
        assert await eventually(lambda: target.closed == 1)
        await client.say(ASK)
        assert (await client.answer(3.0)).startswith(b"HTTP/1.1 504 "), "the client's connection goes on"


@pytest.mark.parametrize("which", ["idle", "total"])
async def test_an_answer_that_stops_is_cut(which: str) -> None:
    async def half(line: Line) -> None:
        await line.head()
        await line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        await line.gone()

    target = Scripted(half)
    async with serving(target, upstream={"timeouts": {which: "300ms"}}) as edge, calling(edge) as client:
        await client.say(ASK)
        back = await client.rest(3.0)
        assert back.startswith(b"HTTP/1.1 200 ")
        assert back.endswith(b"\r\n\r\nhello<reset>")
        assert await eventually(lambda: target.closed == 1)


async def trickle(line: Line) -> None:
    """An answer of ten pieces, a tenth of a second apart."""
    await line.head()
    await line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
    for _ in range(10):
        await asyncio.sleep(0.1)
        await line.say(b"a")
    await line.gone()


async def test_an_answer_that_goes_on_is_not_silence_but_may_take_too_long_all_the_same() -> None:
    async with serving(Scripted(trickle), upstream={"timeouts": {"idle": "500ms"}}) as edge, calling(edge) as client:
        await client.say(ASK)
        assert (await client.answer()).endswith(b"a" * 10)
    async with serving(Scripted(trickle), upstream={"timeouts": {"total": "500ms"}}) as edge, calling(edge) as client:
        await client.say(ASK)
        assert (await client.rest(3.0)).endswith(b"a<reset>")


async def test_the_first_byte_is_waited_for_from_the_last_byte_of_the_request() -> None:
    async def patient(line: Line) -> None:
        await line.until(b"hello")
        await line.say(OK)

    options = {"timeouts": {"first_byte": "300ms"}}
    async with serving(Scripted(patient), upstream=options) as edge, calling(edge) as client:
        await client.say(POST)
        for byte in b"hello":
            await asyncio.sleep(0.15)
            await client.say(bytes([byte]))
        assert (await client.answer()).endswith(b"ok")


async def test_a_target_that_stops_reading_is_a_gateway_timeout() -> None:
    async def deaf(line: Line) -> None:
        await line.head()
        await asyncio.sleep(60)

    options = {"timeouts": {"idle": "300ms"}}
    async with serving(Scripted(deaf), upstream=options) as edge, calling(edge) as client:
        await client.say(POST.replace(b" 5", b" 99999999"))
        await client.say_while_taken(b"a" * 64 * 2**20, 0.2)
        assert (await client.hear(b"\r\n\r\n", 3.0)).startswith(b"HTTP/1.1 504 ")


async def test_a_slow_client_is_not_the_silence_of_the_target() -> None:
    size = 32 * 2**20
    sent = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size + b"a" * size
    options = {"timeouts": {"idle": "300ms"}}
    async with serving(Target([sent]), upstream=options) as edge, calling(edge, receive_buffer=65536) as client:
        await client.say(ASK[:-2] + b"Connection: close\r\n\r\n")
        await client.hear(b"\r\n\r\n")
        await asyncio.sleep(1.0)
        assert len(await client.rest(20.0)) == size + len(b"<end>")


async def test_a_client_that_does_not_read_stops_the_target() -> None:
    size = 64 * 2**20
    said = 0

    async def eager(line: Line) -> None:
        nonlocal said
        await line.head()
        await line.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while said < size:
            await line.say(b"a" * 65536)
            said += 65536
        await line.gone()

    async with serving(Scripted(eager)) as edge, calling(edge, receive_buffer=65536) as client:
        await client.say(ASK[:-2] + b"Connection: close\r\n\r\n")
        await client.hear(b"\r\n\r\n")
        await asyncio.sleep(1.0)
        assert 0 < said < size / 2
        assert len(await client.rest(20.0)) == size + len(b"<end>")


async def test_a_head_that_comes_in_drops_is_due_in_the_time_for_the_first_byte() -> None:
    async def dripping(line: Line) -> None:
        await line.head()
        for byte in OK:
            await line.say(bytes([byte]))
            await asyncio.sleep(0.1)

    timeouts = {"first_byte": "400ms", "idle": "10s", "total": "10s"}
    async with serving(Scripted(dripping), upstream={"timeouts": timeouts}) as edge, calling(edge) as client:
        await client.say(ASK)
        began = asyncio.get_running_loop().time()
        assert (await client.answer()).startswith(b"HTTP/1.1 504 ")
        assert asyncio.get_running_loop().time() - began < 1.5


async def test_interim_answers_are_counted_for_the_request_and_not_for_what_comes_at_once() -> None:
    async def endless(line: Line) -> None:
        await line.head()
        while True:
            await line.say(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            await asyncio.sleep(0.005)

    async with serving(Scripted(endless)) as edge, calling(edge) as client:
        await client.say(ASK)
        await client.hear(b"HTTP/1.1 502 ")


async def test_a_plugin_that_answers_with_what_is_no_response_is_a_failure_of_ours_and_of_one_request() -> None:
    class Wrong(Alone):
        """Forgets what an answer is."""

        def on_request(self, exchange: Exchange) -> Any:
            return "a string" if exchange.request.path == "/wrong" else None

    async with serving(Target(), Wrong()) as edge, calling(edge) as client:
        await client.say(ASK.replace(b"GET / ", b"GET /wrong "))
        assert (await client.answer()).startswith(b"HTTP/1.1 500 ")
        await client.say(ASK)
        assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
