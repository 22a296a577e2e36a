"""Clients that take their answers slowly, or not at all: what they get, what they cost, and when they are cut."""

from __future__ import annotations

import asyncio
import socket

import pytest

from gateway.body import HIGH_WATER
from gateway.downstream import client_connection
from tests.fixtures.conversation import Line, Scripted, calling, eventually, respond, serving
from tests.fixtures.wire import Edge, Target

ASK = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = ASK[:-2] + b"Connection: close\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"
BIG = 4 * 2**20
BIG_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG


@pytest.fixture
def small_send_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel keeps little of what a client does not take, so that the gateway notices early."""
    create = socket.create_server

    def create_small(address: tuple[str, int]) -> socket.socket:
        sock = create(address)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)  # connections inherit it
        return sock

    monkeypatch.setattr(socket, "create_server", create_small)


@pytest.fixture
def short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is closing is read on for a third of a second only."""
    monkeypatch.setattr(client_connection, "LINGER_SECONDS", 0.3)


def is_open(edge: Edge) -> bool:
    name, text = "tallygate_client_connections", "Open client connections."
    return edge.metrics.gauge(name, text, ("bind",)).labels("127.0.0.1:1").value > 0


def sized(size: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"a" * size


# Within one answer


async def test_a_client_that_never_reads_is_cut(small_send_buffers: None) -> None:
    options = {"send_timeout": "300ms"}
    target = Target([BIG_HEAD + b"a" * BIG])
    async with serving(target, **options) as edge, calling(edge, receive_buffer=4096) as client:
        await client.say(ASK)
        assert await eventually(lambda: len(target.heard) == 1)
        await asyncio.sleep(1.0)
        back = await client.rest()
        assert back.startswith(b"HTTP/1.1 200 OK\r\n")
        assert back.endswith(b"<reset>")
        assert len(back) < BIG / 2


async def test_the_call_of_a_client_that_never_reads_is_cancelled(small_send_buffers: None) -> None:
    async def long(line: Line) -> None:
        await line.head()
        await line.say(BIG_HEAD)
        await line.say(b"a" * BIG)
        await line.gone()

    target = Scripted(long)
    async with serving(target, send_timeout="300ms") as edge, calling(edge, receive_buffer=4096) as client:
        await client.say(ASK)
        assert await eventually(lambda: target.closed == 1, 2.0), "it went on to the end"


async def test_a_client_that_reads_now_and_then_is_served_to_the_end(small_send_buffers: None) -> None:
    target = Target([BIG_HEAD + b"a" * BIG])
    async with serving(target, send_timeout="700ms") as edge, calling(edge, receive_buffer=65536) as client:
        await client.say(ASK[:-2] + b"Connection: close\r\n\r\n")
        back = b""
        for quarter in (1, 2, 3):
            await asyncio.sleep(0.3)
            while len(back) < quarter * BIG // 4:
                back += await client.some(65536)
        back += await client.rest()
        assert back.endswith(b"a<end>")
        assert len(back.partition(b"\r\n\r\n")[2]) == BIG + len(b"<end>")


async def test_a_client_that_reads_slowly_but_steadily_is_not_cut(small_send_buffers: None) -> None:
    """It takes 8 KB every 25 ms: at no time nothing for as long as the timeout."""
    target = Target([BIG_HEAD + b"a" * BIG])
    async with serving(target, send_timeout="400ms") as edge, calling(edge, receive_buffer=4096) as client:
        await client.say(ASK)
        taken = 0
        while taken < HIGH_WATER:
            piece = await client.some(8192)
            assert piece, f"the connection ended after {taken} bytes"
            taken += len(piece)
            await asyncio.sleep(0.025)


async def test_the_last_bytes_of_an_answer_are_not_kept_for_a_client_that_never_takes_them(
    small_send_buffers: None,
) -> None:
    size = 100_000
    target = Target([b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"a" * size])
    options = {"send_timeout": "300ms", "idle_timeout": "300ms", "head_timeout": "300ms"}
    async with serving(target, **options) as edge, calling(edge, receive_buffer=4096) as client:
        await client.say(ASK[:-2] + b"Connection: close\r\n\r\n")
        assert await eventually(lambda: len(target.heard) == 1)
        await asyncio.sleep(2.0)
        back = await client.rest()
        assert back.endswith(b"<reset>"), "it was kept for two seconds"
        assert len(back) < size


# At the end of a connection


def early(size: int) -> Scripted:
    """An upstream that answers a request before it has its body, so that its connection lingers."""

    async def answering(line: Line) -> None:
        await line.head()
        await line.say(sized(size))
        await line.gone()

    return Scripted(answering)


async def test_an_answer_to_half_a_request_is_not_cut_short_for_a_slow_reader(
    small_send_buffers: None, short_linger: None
) -> None:
    """It takes more than twice as long as a connection is read on after its end."""
    size = 200_000
    async with serving(early(size), send_timeout="400ms") as edge, calling(edge, receive_buffer=4096) as client:
        await client.say(POST + b"half")
        back = b""
        while piece := await client.some(8192):
            back += piece
            await asyncio.sleep(0.025)
        assert len(back.partition(b"\r\n\r\n")[2]) == size


async def test_an_answer_to_half_a_request_is_not_kept_for_a_client_that_never_takes_it(
    small_send_buffers: None, short_linger: None
) -> None:
    async with serving(early(200_000), send_timeout="300ms") as edge, calling(edge, receive_buffer=4096) as client:
        await client.say(POST + b"half")
        await asyncio.sleep(1.5)
        assert not is_open(edge)
        assert (await client.rest()).endswith(b"<reset>")


async def test_who_has_taken_all_and_does_not_close_is_left_after_a_while(short_linger: None) -> None:
    async with serving(early(2)) as edge, calling(edge) as client:
        await client.say(POST + b"half")
        assert (await client.rest()).endswith(b"aa<end>")
        assert is_open(edge), "it is read on, so that a reset does not destroy the answer"
        assert await eventually(lambda: not is_open(edge), 1.5)


async def test_who_says_no_more_and_takes_nothing_is_cut(small_send_buffers: None) -> None:
    target = Target([sized(100_000)])
    async with serving(target, send_timeout="300ms") as edge, calling(edge, receive_buffer=4096) as client:
        await client.say(ASK)
        assert await eventually(lambda: len(target.heard) == 1)
        await asyncio.sleep(0.1)
        client.half_close()
        assert await eventually(lambda: not is_open(edge), 2.0)


# Asking on and on


@pytest.mark.parametrize("pause", [0.0, 0.01], ids=["ahead", "one after another"])
async def test_who_takes_no_answers_is_not_served_more_of_them(small_send_buffers: None, pause: float) -> None:
    many, size = 100, 20_000
    target = Scripted(respond(sized(size)))
    async with serving(target) as edge, calling(edge, receive_buffer=4096) as client:
        for _ in range(many):
            await client.say(ASK)
            await asyncio.sleep(pause)
        await asyncio.sleep(0.5)
        assert target.text.count(ASK[:5]) < 20
        for _ in range(many):
            assert len((await client.answer()).partition(b"\r\n\r\n")[2]) == size
        await client.say(ASK)
        await client.answer()


async def test_idleness_begins_when_a_slow_reader_has_taken_all(small_send_buffers: None) -> None:
    options = {"head_timeout": "300ms", "idle_timeout": "1s"}
    async with serving(Target([sized(200_000)]), **options) as edge, calling(edge, receive_buffer=4096) as client:
        await client.say(ASK)
        await asyncio.sleep(1.5)
        await client.answer()
        assert await client.meanwhile(0.7) == b""
        await client.say(ASK)
        await client.answer()
        assert await client.rest(3.0) == b"<end>"
