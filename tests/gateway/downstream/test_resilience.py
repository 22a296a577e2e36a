"""An upstream that fails, or some of whose targets do: what is repeated, refused, made to wait or sent elsewhere."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from tests.fixtures.conversation import Held, Line, Scripted, calling, eventually, respond, serving, silence
from tests.fixtures.ports import free_port
from tests.fixtures.wire import OK, Edge, Target

ASK = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"
QUICK: dict[str, Any] = {"base": "1ms", "max": "2ms", "budget_minimum": 1000}


@asynccontextmanager
async def before(*targets: Target, **upstream: Any) -> AsyncIterator[Edge]:
    """An edge in front of several targets."""
    async with AsyncExitStack() as stack:
        urls = []
        for target in targets:
            server = await stack.enter_async_context(await asyncio.start_server(target.serve, "127.0.0.1", 0))
            urls.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        edge = await stack.enter_async_context(serving(Target(), upstream={"targets": urls, **upstream}))
        yield edge
        for target in targets:
            if isinstance(target, Scripted):
                target.hang_up()


def dead_url() -> str:
    """Where nobody listens."""
    return f"http://127.0.0.1:{free_port()}"


async def status(edge: Edge, asked: bytes = ASK) -> int:
    async with calling(edge) as client:
        await client.say(asked)
        return int((await client.answer()).split(b" ")[1])


async def test_a_failed_attempt_is_repeated_and_nobody_notices() -> None:
    async with before(Target([BUSY, BUSY, OK]), retry=QUICK) as edge:
        assert await status(edge) == 200


async def test_without_retries_the_failure_is_the_answer() -> None:
    async with before(Target([BUSY, OK])) as edge:
        assert await status(edge) == 503


async def test_after_the_last_attempt_the_failure_is_the_answer() -> None:
    target = Target([BUSY])
    async with before(target, retry={**QUICK, "attempts": 2}) as edge:
        assert await status(edge) == 503
        assert target.text.count(b"GET / ") == 2


async def test_what_may_not_be_sent_twice_is_not() -> None:
    target = Target([BUSY, OK])
    async with before(target, retry=QUICK) as edge:
        assert await status(edge, POST) == 503
        assert target.text.count(b"POST / ") == 1


async def test_a_body_is_sent_again_whole() -> None:
    target = Target([BUSY, OK])
    async with before(target, retry={**QUICK, "methods": ["POST"]}) as edge:
        assert await status(edge, POST) == 200
        assert target.text.count(b"\r\n\r\nhello") == 2


@pytest.mark.parametrize("early", [OK, BUSY])
async def test_a_body_that_is_still_on_its_way_when_the_answer_comes_is_sent_on_once(early: bytes) -> None:
    async def script(line: Line) -> None:
        await line.until(b"\r\n\r\nhello")
        await line.say(early)
        await line.gone()

    target = Scripted(script)
    retry = {**QUICK, "methods": ["POST"]}
    async with before(target, retry=retry) as edge, calling(edge) as client:
        await client.say(POST.replace(b"Length: 5", b"Length: 11"))
        assert (await client.answer()).endswith(early[-2:])
        await client.say(b" world")
        assert await eventually(lambda: target.text.endswith(b"hello world") or target.closed == 1)
        assert target.text.count(b"hello") == 1


async def test_a_dead_target_costs_no_request_once_there_are_retries() -> None:
    alive = Target([OK])
    async with serving(Target()) as _, AsyncExitStack() as stack:
        server = await stack.enter_async_context(await asyncio.start_server(alive.serve, "127.0.0.1", 0))
        urls = [dead_url(), f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"]
        edge = await stack.enter_async_context(serving(Target(), upstream={"targets": urls, "retry": QUICK}))
        assert [await status(edge) for _ in range(10)] == [200] * 10
        assert [await status(edge, POST) for _ in range(10)] == [200] * 10, "never sent, so it may be repeated"


async def test_a_client_that_leaves_during_a_pause_ends_the_call() -> None:
    target = Target([BUSY])
    async with before(target, retry={"base": "5s", "max": "5s", "attempts": 9}) as edge:
        async with calling(edge) as client:
            await client.say(ASK)
            assert await eventually(lambda: b"GET / " in target.text)
            client.vanish()
        assert await eventually(lambda: not edge.listener._connections)


async def test_a_slow_attempt_gets_company_and_the_first_answer_wins() -> None:
    slow, quick = Scripted(silence), Target([OK])
    async with before(slow, quick, retry={**QUICK, "hedge": {"after": "50ms"}}) as edge:
        for _ in range(4):
            assert await status(edge) == 200
        assert await eventually(lambda: slow.active == 0), "who lost is not kept waiting"


async def test_a_circuit_opens_and_closes_again() -> None:
    target = Target([BUSY, BUSY, OK])
    circuit = {"minimum_requests": 2, "recovery_timeout": "300ms", "half_open_requests": 1}
    async with before(target, circuit_breaker=circuit) as edge:
        assert [await status(edge), await status(edge)] == [503, 503]
        heard = len(target.text)
        async with calling(edge) as client:
            await client.say(ASK)
            refusal = await client.answer()
        assert json.loads(refusal.split(b"\r\n\r\n", 1)[1])["type"].endswith("/circuit-open")
        assert b"\r\nretry-after: 1\r\n" in refusal.lower()
        assert len(target.text) == heard, "nothing was sent"
        await asyncio.sleep(0.35)
        assert [await status(edge), await status(edge)] == [200, 200]


async def test_a_target_that_fails_is_ejected_and_the_others_take_its_calls() -> None:
    bad, good = Target([BUSY]), Target([OK])
    health = {"passive": {"failures": 2, "ejection": "60s"}, "panic_threshold": "0%"}
    async with before(bad, good, health=health) as edge:
        seen = [await status(edge) for _ in range(20)]
        assert seen.count(503) == 2
        assert set(seen[-10:]) == {200}


async def test_weights_are_kept() -> None:
    heavy, light = Target([OK]), Target([OK])
    async with AsyncExitStack() as stack:
        targets = []
        for target, weight in ((heavy, 3), (light, 1)):
            server = await stack.enter_async_context(await asyncio.start_server(target.serve, "127.0.0.1", 0))
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            targets.append({"url": url, "weight": weight})
        upstream = {"targets": targets, "balancer": "weighted"}
        edge = await stack.enter_async_context(serving(Target(), upstream=upstream))
        for _ in range(8):
            assert await status(edge) == 200
        assert (heavy.text.count(b"GET / "), light.text.count(b"GET / ")) == (6, 2)


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_bulkhead_counts_a_call_until_its_body_has_ended(leaves: bool) -> None:
    held = Held()
    target = Scripted(held, respond(OK))
    bulkhead = {"max_in_flight": 1, "max_waiting": 1, "wait_timeout": "5s"}
    async with before(target, bulkhead=bulkhead) as edge, calling(edge) as first, calling(edge) as second:
        await first.say(ASK)
        await first.hear(b"\r\n\r\n")
        await second.say(ASK)
        assert await eventually(lambda: edge.upstream.bulkhead is not None and edge.upstream.bulkhead.waiting == 1)
        assert await status(edge) == 503, "the queue is full"
        if leaves:
            first.vanish()
        else:
            held.opened.set()
        assert (await second.answer()).startswith(b"HTTP/1.1 200 ")
        assert target.most_active <= 2


async def test_who_waits_too_long_for_a_place_is_refused_and_who_leaves_gives_it_up() -> None:
    held = Held()
    bulkhead = {"max_in_flight": 1, "max_waiting": 1, "wait_timeout": "200ms"}
    async with before(Scripted(held, respond(OK)), bulkhead=bulkhead) as edge, calling(edge) as first:
        await first.say(ASK)
        await first.hear(b"\r\n\r\n")
        assert await status(edge) == 503
        async with calling(edge) as leaving:
            await leaving.say(ASK)
            assert await eventually(lambda: edge.upstream.bulkhead is not None and edge.upstream.bulkhead.waiting == 1)
            leaving.vanish()
        assert await eventually(lambda: edge.upstream.bulkhead is not None and edge.upstream.bulkhead.waiting == 0)
        held.opened.set()
        assert (await first.hear(b"ok")).endswith(b"ok")
        assert await status(edge) == 200
