"""What a client may cost: how slow it may be, how many there may be, how far ahead it may run, how it may leave."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from ipaddress import ip_network

import pytest

from gateway import pace
from gateway.metrics import Metrics
from tests.fixtures.conversation import Caller, Line, Scripted, calling, eventually, respond, serving, silence
from tests.fixtures.wire import OK, Target

ASK = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def quick_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate of a body is measured over half a second."""
    monkeypatch.setattr(pace, "RATE_SECONDS", 0.5)


async def drip(client: Caller, text: bytes, pause: float) -> None:
    """Send a byte at a time until all is sent or nobody takes any more."""
    try:
        for place in range(len(text)):
            await client.say(text[place : place + 1])
            await asyncio.sleep(pause)
    except OSError:
        pass


def refused(metrics: Metrics) -> float:
    name, text = "tallygate_connections_refused_total", "Client connections closed because there were too many."
    return metrics.counter(name, text, ("bind",)).labels("127.0.0.1:1").value


# Heads


@pytest.mark.parametrize("sent", [b"G", b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\n", b"\r\nGET"])
async def test_a_head_that_stops_is_a_request_timeout(sent: bytes) -> None:
    async with serving(Target(), head_timeout="200ms") as edge, calling(edge) as client:
        await client.say(sent)
        back = await client.rest(3.0)
        assert back.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert b"\r\nConnection: close\r\n" in back
        assert b"\r\nContent-Type: application/problem+json\r\n" in back
        assert back.endswith(b"<end>")
        assert edge.target.heard == []


async def test_a_head_that_drips_is_a_request_timeout_although_it_never_stops() -> None:
    async with serving(Target(), head_timeout="300ms") as edge, calling(edge) as client:
        dripping = asyncio.create_task(drip(client, b"GET / HTTP/1.1\r\nX: " + b"a" * 500, 0.02))
        back = await client.rest(3.0)
        client.half_close()
        await dripping
        assert back.startswith(b"HTTP/1.1 408 ")
        assert back.count(b"HTTP/1.1") == 1


async def test_a_head_may_arrive_byte_by_byte_in_time() -> None:
    async with serving(Target()) as edge, calling(edge) as client:
        await drip(client, ASK, 0.0)
        assert (await client.answer()).endswith(b"ok")


async def test_an_empty_line_before_a_request_may_arrive_byte_by_byte() -> None:
    async with serving(Target()) as edge, calling(edge) as client:
        await drip(client, b"\r\n" + ASK, 0.01)
        assert (await client.answer()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("sent", [b"", b"\r\n"], ids=["nothing", "an empty line"])
async def test_a_silent_connection_is_closed_without_a_word(sent: bytes) -> None:
    async with serving(Target(), head_timeout="200ms") as edge, calling(edge) as client:
        await client.say(sent)
        assert await client.rest(3.0) == b"<end>"


async def test_empty_lines_do_not_hold_a_connection() -> None:
    async with serving(Target(), head_timeout="300ms") as edge, calling(edge) as client:
        dripping = asyncio.create_task(drip(client, b"\r\n" * 200, 0.02))
        assert (await client.rest(3.0)).startswith((b"<", b"HTTP/1.1 4"))
        client.half_close()
        await dripping


async def test_a_connection_between_two_requests_is_closed_without_a_word() -> None:
    async with serving(Target(), idle_timeout="300ms") as edge, calling(edge) as client:
        for _ in range(3):
            await client.say(ASK)
            assert (await client.answer()).endswith(b"ok")
        assert await client.rest(3.0) == b"<end>"


async def test_idleness_is_counted_from_the_end_of_the_last_answer() -> None:
    async with serving(Target(), head_timeout="300ms", idle_timeout="10s") as edge, calling(edge) as client:
        await client.say(ASK)
        await client.answer()
        assert await client.meanwhile(0.8) == b""
        await client.say(ASK)
        assert (await client.answer()).endswith(b"ok")


async def test_a_slow_upstream_is_not_held_against_the_client() -> None:
    async def slow(line: Line) -> None:
        await line.head()
        await asyncio.sleep(0.8)
        await line.say(OK)

    async with serving(Scripted(slow), head_timeout="200ms", idle_timeout="200ms") as edge, calling(edge) as client:
        await client.say(ASK)
        assert (await client.answer()).endswith(b"ok")


async def test_a_second_head_that_stops_is_a_request_timeout_after_the_head_timeout() -> None:
    async with serving(Target(), head_timeout="200ms", idle_timeout="30s") as edge, calling(edge) as client:
        await client.say(ASK)
        await client.answer()
        await client.say(b"GET / HT")
        assert (await client.rest(2.0)).startswith(b"HTTP/1.1 408 ")


async def test_a_second_head_has_its_own_time_from_its_first_byte() -> None:
    async with serving(Target(), head_timeout="10s", idle_timeout="500ms") as edge, calling(edge) as client:
        await client.say(ASK)
        await client.answer()
        await asyncio.sleep(0.2)
        await client.say(ASK[:10])
        assert await client.meanwhile(1.0) == b""
        await client.say(ASK[10:])
        assert (await client.answer()).endswith(b"ok")


# Bodies


async def test_a_body_that_stops_is_a_request_timeout(quick_rate: None) -> None:
    target = Scripted(silence)
    async with serving(target) as edge, calling(edge) as client:
        await client.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello")
        back = await client.rest(4.0)
        assert back.startswith(b"HTTP/1.1 408 ")
        assert b"\r\nConnection: close\r\n" in back
        assert await eventually(lambda: target.closed == 1), "the call is over"
        assert target.text.endswith(b"\r\n\r\nhello")


async def test_a_body_below_the_rate_is_a_request_timeout_although_it_never_stops(quick_rate: None) -> None:
    target = Scripted(silence)
    async with serving(target, minimum_body_rate="100B") as edge, calling(edge) as client:
        await client.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
        dripping = asyncio.create_task(drip(client, b"a" * 500, 0.04))
        assert (await client.rest(4.0)).startswith(b"HTTP/1.1 408 ")
        client.half_close()
        await dripping
        assert await eventually(lambda: target.closed == 1)


async def test_a_body_above_the_rate_is_served(quick_rate: None) -> None:
    async with serving(Target(), minimum_body_rate="100B") as edge, calling(edge) as client:
        await client.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(20):
            await client.say(b"a" * 50)
            await asyncio.sleep(0.06)
        assert (await client.answer()).endswith(b"ok")


async def _late(line: Line) -> None:
    """Invites the body after a while, and answers once it is there."""
    await line.head()
    await asyncio.sleep(1.2)
    await line.say(b"HTTP/1.1 100 Continue\r\n\r\n")
    await line.until(b"hello")
    await line.say(OK)


async def test_a_client_that_was_not_invited_yet_is_not_too_slow(quick_rate: None) -> None:
    async with serving(Scripted(_late)) as edge, calling(edge) as client:
        await client.say(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert await client.hear(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.say(b"hello")
        assert (await client.answer()).endswith(b"ok")


async def test_the_rate_of_an_invited_client_counts_from_the_invitation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "RATE_SECONDS", 0.8)

    async with serving(Scripted(_late)) as edge, calling(edge) as client:
        await client.say(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert await client.hear(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.say(b"h")
        await asyncio.sleep(0.4)
        await client.say(b"ello")
        assert (await client.answer()).startswith(b"HTTP/1.1 200 ")


# How many


async def test_beyond_the_most_connections_the_next_is_closed_at_once_and_counted() -> None:
    async with serving(Target(), max_connections=2) as edge, AsyncExitStack() as clients:
        first = await clients.enter_async_context(calling(edge))
        second = await clients.enter_async_context(calling(edge))
        for client in (first, second):
            await client.say(ASK)
            assert (await client.answer()).endswith(b"ok")
        assert refused(edge.metrics) == 0
        third = await clients.enter_async_context(calling(edge))
        assert await third.rest(2.0) in (b"<end>", b"<reset>")
        assert refused(edge.metrics) == 1
        await first.say(ASK)
        assert (await first.answer()).endswith(b"ok")
        first.close()
        second.vanish()
        await asyncio.sleep(0.1)
        fourth = await clients.enter_async_context(calling(edge))
        await fourth.say(ASK)
        assert (await fourth.answer()).endswith(b"ok")
        assert refused(edge.metrics) == 1


async def test_an_address_has_its_own_limit() -> None:
    async with serving(Target(), max_connections_per_address=1) as edge, AsyncExitStack() as clients:
        first = await clients.enter_async_context(calling(edge, "127.0.0.1"))
        await first.say(ASK)
        assert (await first.answer()).endswith(b"ok")
        same = await clients.enter_async_context(calling(edge, "127.0.0.1"))
        assert await same.rest(2.0) in (b"<end>", b"<reset>")
        assert refused(edge.metrics) == 1
        other = await clients.enter_async_context(calling(edge, "127.0.0.2"))
        await other.say(ASK)
        assert (await other.answer()).endswith(b"ok")


async def test_a_trusted_proxy_is_exempt_from_the_limit_of_an_address_but_not_from_that_of_all() -> None:
    options = {"trusted": [ip_network("127.0.0.1")], "max_connections_per_address": 1, "max_connections": 3}
    async with serving(Target(), **options) as edge, AsyncExitStack() as clients:
        for _ in range(3):
            client = await clients.enter_async_context(calling(edge, "127.0.0.1"))
            await client.say(ASK)
            assert (await client.answer()).endswith(b"ok")
        beyond = await clients.enter_async_context(calling(edge, "127.0.0.1"))
        assert await beyond.rest(2.0) in (b"<end>", b"<reset>")
        assert refused(edge.metrics) == 1


# Running ahead


async def test_a_flood_of_requests_is_not_read_while_the_first_is_not_answered() -> None:
    flood = ASK * (64 * 2**20 // len(ASK))
    async with serving(Scripted(silence)) as edge, calling(edge) as client:
        taken = await client.say_while_taken(flood)
        assert 32 * 1024 < taken < len(flood), "the rest is the client's to keep"
        assert len(edge.target.heard) == 1


async def test_a_flood_of_requests_is_answered_in_order_and_to_the_last() -> None:
    many = 10_000
    target = Scripted(respond(*(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n%06d" % turn for turn in range(many))))
    async with serving(target) as edge, calling(edge) as client:
        saying = asyncio.create_task(client.say(ASK * (many - 1) + ASK[:-2] + b"Connection: close\r\n\r\n"))
        back = await client.rest(30.0)
        await saying
        bodies = [piece[:6] for piece in back.split(b"\r\n\r\n")[1:]]
        assert bodies == [b"%06d" % turn for turn in range(many)]
        assert back.endswith(b"\r\n\r\n%06d<end>" % (many - 1))


# Leaving


async def test_a_client_that_says_no_more_between_requests_is_closed() -> None:
    async with serving(Target()) as edge, calling(edge) as client:
        await client.say(ASK)
        await client.answer()
        client.half_close()
        assert await client.rest(2.0) == b"<end>"


async def test_a_client_that_says_no_more_while_it_waits_is_taken_for_gone() -> None:
    """As nginx and Envoy take it: a closed socket looks the same, and the upstream's work would be for nothing."""
    target = Scripted(silence)
    async with serving(target) as edge, calling(edge) as client:
        await client.say(ASK)
        assert await eventually(lambda: b"\r\n\r\n" in target.text)
        client.half_close()
        assert await client.rest(2.0) == b"<end>"
        assert await eventually(lambda: target.closed == 1)


async def test_a_client_that_says_no_more_in_the_middle_of_a_head_is_closed() -> None:
    async with serving(Target()) as edge, calling(edge) as client:
        await client.say(b"GET / HTTP/1.1\r\nHo")
        client.half_close()
        assert (await client.rest(2.0)).endswith(b"<end>")
        assert edge.target.heard == []
