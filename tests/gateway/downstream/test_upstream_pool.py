"""Pool: how many calls an upstream takes at once, who waits and for how long, whose turn it is, who leaves early."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from gateway.exchange import Exchange
from tests.fixtures.conversation import Caller, Line, Scripted, calling, eventually, respond, serving, silence
from tests.fixtures.wire import OK, Alone, Edge, Target

ASK = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
ONE: dict[str, Any] = {"max_connections": 1}


class Watching(Alone):
    """Keeps what passes and what it was told at the end."""

    def __init__(self) -> None:
        self.passed = b""
        self.lasts = 0
        self.outcomes: list[str] = []

    def on_chunk(self, exchange: Exchange, chunk: bytes, last: bool) -> bytes:
        self.passed += chunk
        self.lasts += last
        return chunk

    def on_finish(self, exchange: Exchange) -> None:
        self.outcomes.append(exchange.outcome)


class Stalling(Alone):
    """Holds the process up for a moment whenever an exchange that asks for it is over, as a busy machine may."""

    def on_finish(self, exchange: Exchange) -> None:
        if exchange.request.path == "/stall":
            time.sleep(0.5)


class Waiting(Alone):
    """Lets every exchange wait for nothing."""

    async def on_request(self, exchange: Exchange) -> None:
        await asyncio.sleep(0)


class Gate:
    """A script: to every request an answer, but only after `open`."""

    def __init__(self, answer: bytes = OK) -> None:
        self._answer = answer
        self._opened = asyncio.Event()

    def open(self) -> None:
        self._opened.set()

    async def __call__(self, line: Line) -> None:
        while True:
            await line.head()
            await self._opened.wait()
            await line.say(self._answer)


@asynccontextmanager
async def asking(edge: Edge, number: int) -> AsyncIterator[list[Caller]]:
    """So many clients that have asked, one after the other."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(calling(edge)) for _ in range(number)]
        for client in clients:
            await client.say(ASK)
            await asyncio.sleep(0.05)
        yield clients


# How many


async def test_no_more_calls_than_connections_are_on_their_way_and_the_others_wait() -> None:
    async def slow(line: Line) -> None:
        while True:
            await line.head()
            await asyncio.sleep(0.05)
            await line.say(OK)

    target = Scripted(slow)
    async with serving(target, upstream={"max_connections": 2}) as edge, asking(edge, 8) as clients:
        for client in clients:
            assert (await client.answer()).endswith(b"ok")
        assert target.most_active <= 2
        assert target.text.count(b"GET /") == 8


@pytest.mark.parametrize("waiting", [0, 2])
async def test_when_the_queue_is_full_the_next_is_refused_at_once(waiting: int) -> None:
    gate = Gate()
    options = ONE | {"max_waiting": waiting, "wait_timeout": "30s"}
    async with serving(Scripted(gate), upstream=options) as edge, asking(edge, 1 + waiting + 1) as clients:
        refusal = await clients[-1].answer(1.0)
        assert refusal.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 1\r\n" in refusal.lower()
        gate.open()
        for client in clients[:-1]:
            assert (await client.answer()).endswith(b"ok")
        await clients[-1].say(ASK)
        assert (await clients[-1].answer()).endswith(b"ok"), "its connection goes on, and there is room again"


async def test_who_waited_too_long_is_refused() -> None:
    gate = Gate()
    async with serving(Scripted(gate), upstream=ONE | {"wait_timeout": "200ms"}) as edge, asking(edge, 2) as clients:
        refusal = await clients[1].answer(2.0)
        assert refusal.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 1\r\n" in refusal.lower()
        gate.open()
        assert (await clients[0].answer()).endswith(b"ok")
        await clients[1].say(ASK)
        assert (await clients[1].answer()).endswith(b"ok")


async def test_a_client_that_leaves_the_queue_makes_room_in_it() -> None:
    gate = Gate()
    options = ONE | {"max_waiting": 1, "wait_timeout": "30s"}
    async with serving(Scripted(gate), upstream=options) as edge, asking(edge, 2) as clients:
        clients[1].close()
        assert await eventually(lambda: repr(edge.upstream.pool) == "Pool(1 active, 0 idle, 0 waiting)")
        async with asking(edge, 1) as (third,):
            gate.open()
            assert (await third.answer()).endswith(b"ok")
            assert (await clients[0].answer()).endswith(b"ok")


async def test_a_call_that_fails_makes_room_for_the_one_that_waits() -> None:
    async def cut(line: Line) -> None:
        await line.head()
        await asyncio.sleep(0.2)
        line.cut()

    async with serving(Scripted(cut, respond(OK)), upstream=ONE) as edge, asking(edge, 2) as clients:
        assert (await clients[0].answer()).startswith(b"HTTP/1.1 502 ")
        assert (await clients[1].answer()).endswith(b"ok")


async def test_room_is_not_lost_when_it_is_given_in_the_moment_the_wait_is_over() -> None:
    async def slow(line: Line) -> None:
        await line.head()
        await asyncio.sleep(0.1)
        await line.say(OK)
        await asyncio.sleep(1.0)

    target = Scripted(slow, respond(OK))
    options = ONE | {"wait_timeout": "300ms"}
    async with serving(target, Stalling(), upstream=options) as edge:
        async with calling(edge) as first, calling(edge) as second:
            await first.say(ASK.replace(b"/ ", b"/stall "))
            await asyncio.sleep(0.02)
            await second.say(ASK)
            assert (await first.answer()).endswith(b"ok")
            assert (await second.answer()).startswith(b"HTTP/1.1 503 ")
        assert await eventually(lambda: target.closed == 1)
        async with asking(edge, 1) as (third,):
            assert (await third.answer()).endswith(b"ok")


# Whose turn


async def test_targets_take_turns() -> None:
    answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number for number in range(3)]
    targets = [Scripted(respond(answer)) for answer in answers]
    servers = [await asyncio.start_server(target.serve, "127.0.0.1", 0) for target in targets]
    urls = [f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in servers]
    async with serving(Target(), upstream={"targets": urls}) as edge, calling(edge) as client:
        order = b""
        for _ in range(9):
            await client.say(ASK)
            order += (await client.answer())[-1:]
        assert order in (b"012012012", b"120120120", b"201201201")
        assert [len(target.heard) for target in targets] == [1, 1, 1], "each has a connection that is used again"
    for server in servers:
        server.close()


async def test_an_idle_connection_to_one_target_gives_way_to_a_call_of_another() -> None:
    targets = [Scripted(respond(OK)), Scripted(respond(OK))]
    servers = [await asyncio.start_server(target.serve, "127.0.0.1", 0) for target in targets]
    urls = [f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in servers]
    async with serving(Target(), upstream=ONE | {"targets": urls}) as edge, calling(edge) as client:
        for _ in range(4):
            await client.say(ASK)
            assert (await client.answer()).endswith(b"ok")
        assert [len(target.heard) for target in targets] == [2, 2]
        assert await eventually(lambda: sum(target.active for target in targets) == 1)
    for server in servers:
        server.close()


# Clients that leave


async def in_pieces(line: Line) -> None:
    """An answer of twenty pieces, three hundredths of a second apart."""
    await line.head()
    await line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n")
    for _ in range(20):
        await line.say(b"a")
        await asyncio.sleep(0.03)
    await respond(OK)(line)


@pytest.mark.parametrize("waits", [False, True], ids=["driven", "as a task"])
@pytest.mark.parametrize("abruptly", [False, True], ids=["closes", "resets"])
async def test_a_client_that_leaves_before_its_answer_cancels_the_call(waits: bool, abruptly: bool) -> None:
    target, watching = Scripted(silence), Watching()
    plugins = (watching, Waiting()) if waits else (watching,)
    async with serving(target, *plugins) as edge, calling(edge) as client:
        await client.say(ASK)
        assert await eventually(lambda: target.text.endswith(b"\r\n\r\n"))
        client.vanish() if abruptly else client.close()
        assert await eventually(lambda: target.closed == 1)
        assert await eventually(lambda: watching.outcomes == ["client_gone"])
        assert repr(edge.upstream.pool) == "Pool(0 active, 0 idle, 0 waiting)"


@pytest.mark.parametrize("waits", [False, True], ids=["driven", "as a task"])
async def test_a_client_that_leaves_within_its_answer_cancels_the_call(waits: bool) -> None:
    target, watching = Scripted(in_pieces), Watching()
    plugins = (watching, Waiting()) if waits else (watching,)
    async with serving(target, *plugins) as edge, calling(edge) as client:
        await client.say(ASK)
        await client.hear(b"aaa")
        client.close()
        assert await eventually(lambda: target.closed == 1)
        assert await eventually(lambda: watching.outcomes == ["client_gone"])
        assert 3 <= len(watching.passed) < 20
        assert watching.lasts == 0


@pytest.mark.parametrize("waits", [False, True], ids=["driven", "as a task"])
@pytest.mark.parametrize("heard", [b"", b"aaa"], ids=["before its answer", "within its answer"])
async def test_an_answer_is_drained_to_its_end_where_the_route_says_so(heard: bytes, waits: bool) -> None:
    target, watching = Scripted(in_pieces), Watching()
    plugins = (watching, Waiting()) if waits else (watching,)
    async with serving(target, *plugins, route={"on_disconnect": "drain"}) as edge:
        async with calling(edge) as client:
            await client.say(ASK)
            await client.hear(heard) if heard else await eventually(lambda: target.text.endswith(b"\r\n\r\n"))
        assert await eventually(lambda: len(watching.outcomes) == 1)
        assert (watching.passed, watching.lasts, watching.outcomes) == (b"a" * 20, 1, ["client_gone"])
        assert target.closed == 0
        async with asking(edge, 1) as (client,):
            assert (await client.answer()).endswith(b"ok"), "on the connection that was drained"
        assert len(target.heard) == 1


async def test_an_answer_that_its_client_stopped_taking_is_drained_to_its_end_too() -> None:
    size = 16 * 2**20
    target, watching = Target([b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"a" * size]), Watching()
    async with serving(target, watching, route={"on_disconnect": "drain"}) as edge:
        async with calling(edge, receive_buffer=4096) as client:
            await client.say(ASK)
            await client.hear(b"\r\n\r\n")
            await asyncio.sleep(0.2)
            assert watching.lasts == 0
        assert await eventually(lambda: len(watching.outcomes) == 1)
        assert (len(watching.passed), watching.lasts, watching.outcomes) == (size, 1, ["client_gone"])
