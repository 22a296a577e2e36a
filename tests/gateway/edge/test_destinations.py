"""Destinations: split, mirrored, replaced and held back as the file says; and one request stays one usage event."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests.fixtures.conversation import Held, Line, Scripted, calling, eventually, respond, silence
from tests.fixtures.gateway import ASK, Gateway, gateway_before
from tests.fixtures.wire import OK, Target
from tests.play import KEY

BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"
OTHER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
PAID = b"GET /paid HTTP/1.1\r\nHost: a\r\nX-Api-Key: " + KEY.encode() + b"\r\n\r\n"
METERED = "plugins: [key_auth: , metering: {meters: [requests]}]"
UPSTREAMS = """\
upstreams:
  one: {targets: ["<one>"]}
  two: {targets: ["<two>"]}
"""

Before = Callable[..., AbstractAsyncContextManager[Gateway]]


@pytest.fixture
def before(here: Path) -> Before:
    """A gateway whose one route has these options, before the targets `one` and `two`."""

    def make(route: str, *, upstreams: str = UPSTREAMS, **targets: Target) -> AbstractAsyncContextManager[Gateway]:
        text = f"{upstreams}routes: [{{name: r, {route}}}]\n"
        return gateway_before(here / "journal", text, **{"one": Target(), "two": Target([OTHER]), **targets})

    return make


async def bodies(gateway: Gateway, asked: bytes, times: int) -> list[bytes]:
    return [(await gateway.answer(asked)).rpartition(b"\r\n\r\n")[2] for _ in range(times)]


# Split


SPLIT = "split: [{upstream: one, weight: 80}, {upstream: two, weight: 20}]"


async def test_a_split_shares_requests_by_weight(before: Before) -> None:
    async with before(SPLIT) as gateway:
        found = await bodies(gateway, ASK, 300)
        assert found.count(b"other") == pytest.approx(60, abs=30)


async def test_a_caller_stays_with_its_upstream_and_a_reload_moves_callers_only_to_the_one_that_was_raised(
    before: Before,
) -> None:
    def as_caller(number: int) -> bytes:
        return b"GET / HTTP/1.1\r\nHost: a\r\nCookie: session=s%d\r\n\r\n" % number

    async with before(f"{SPLIT}, split_by: {{cookie: session}}") as gateway:
        first = [await bodies(gateway, as_caller(number), 3) for number in range(40)]
        assert all(len(set(found)) == 1 for found in first)
        raised = SPLIT.replace("weight: 20", "weight: 80")
        await gateway.take(f"{UPSTREAMS}routes: [{{name: r, {raised}, split_by: {{cookie: session}}}}]\n")
        second = [await bodies(gateway, as_caller(number), 3) for number in range(40)]
        moved = [after for earlier, after in zip(first, second, strict=True) if earlier != after]
        assert moved
        assert all(after == [b"other"] * 3 for after in moved)


async def test_a_usage_event_names_the_upstream_of_the_split_that_answered(before: Before) -> None:
    async with before(f"split: [{{upstream: one, weight: 0}}, {{upstream: two, weight: 1}}], {METERED}") as gateway:
        assert await gateway.status(PAID) == 200
        assert [event.upstream for event in gateway.events()] == ["two"]


# Mirror


MIRROR = "upstream: one, mirror: {upstream: two}"


async def test_a_mirror_gets_a_copy_and_its_answer_is_nobodys(before: Before) -> None:
    copies = Target([BUSY])
    async with before(f"{MIRROR}, {METERED}", two=copies) as gateway:
        assert (await gateway.answer(PAID.replace(b"GET", b"POST", 1))).endswith(b"\r\n\r\nok")
        assert await eventually(lambda: gateway.counted("tallygate_mirror_requests_total", "r", "mirrored") == 1)
        assert copies.text.startswith(b"POST /paid HTTP/1.1\r\n")
        assert b"X-Tallygate-Mirror: 1\r\n" in copies.text
        assert [event.upstream for event in gateway.events()] == ["one"]


@pytest.mark.parametrize("arriving", ["with its head", "in pieces"])
async def test_a_mirror_gets_the_body_too(before: Before, arriving: str) -> None:
    original, copies = Target(), Target()
    async with before(MIRROR, one=original, two=copies) as gateway, calling(gateway) as client:
        if arriving == "in pieces":
            await client.say(POST[:-5])
            assert await eventually(lambda: b"POST" in original.text)
        await client.say(POST[-5:] if arriving == "in pieces" else POST)
        await client.answer()
        assert await eventually(lambda: copies.text.endswith(b"\r\n\r\nhello"))
        assert original.text.endswith(b"\r\n\r\nhello")


async def test_a_mirror_that_hangs_delays_nobody_and_takes_no_more_than_its_bound(before: Before) -> None:
    hanging = Scripted(silence)
    route = "upstream: one, mirror: {upstream: two, max_in_flight: 3, timeout: 500ms}"
    async with before(route, two=hanging) as gateway:
        async with asyncio.timeout(2):
            assert {await gateway.status() for _ in range(20)} == {200}
        assert hanging.most_active <= 3
        assert gateway.counted("tallygate_mirror_requests_total", "r", "left_out") >= 10
        assert await eventually(lambda: hanging.active == 0), "it is given up"


async def test_what_is_too_large_to_keep_is_not_mirrored(before: Before) -> None:
    original = Target()
    async with before("upstream: one, mirror: {upstream: two, replay_buffer: 4B}", one=original) as gateway:
        assert await gateway.status(POST) == 200
        assert original.text.endswith(b"\r\n\r\nhello")
        assert gateway.counted("tallygate_mirror_requests_total", "r", "left_out") == 1


async def test_a_conversation_is_not_mirrored(before: Before) -> None:
    upgrade = (
        b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b==\r\n\r\n"
    )
    copies = Target()
    async with before(f"{MIRROR}, websocket: {{}}", two=copies) as gateway:
        assert await gateway.status(ASK[:-2] + upgrade % (22 * b"A")) == 200
        assert await gateway.status() == 200
        assert await eventually(lambda: gateway.counted("tallygate_mirror_requests_total", "r", "mirrored") == 1)
        assert b"websocket" not in copies.text.lower()


# Fallback


CIRCUIT = """\
upstreams:
  one: {targets: ["<one>"], circuit_breaker: {minimum_requests: 2, recovery_timeout: 300ms, half_open_requests: 1}}
  two: {targets: ["<two>"]}
"""


async def test_a_fallback_answers_while_a_circuit_is_open_and_no_longer(before: Before) -> None:
    failing = Target([BUSY, BUSY, OK])
    route = "upstream: one, fallback: {on: [502], reply: {status: 203, json: {books: []}}}"
    async with before(route, upstreams=CIRCUIT, one=failing) as gateway:
        assert [await gateway.status(), await gateway.status()] == [503, 503], "its statuses are not among `on`"
        heard = len(failing.text)
        answer = await gateway.answer()
        assert answer.startswith(b"HTTP/1.1 203 ")
        assert b"\r\nContent-Type: application/json\r\n" in answer
        assert json.loads(answer.rpartition(b"\r\n\r\n")[2]) == {"books": []}
        assert len(failing.text) == heard, "nothing was sent"
        assert gateway.counted("tallygate_fallbacks_total", "r", "refused") == 1
        assert await gateway.recovers()


async def test_without_a_fallback_an_open_circuit_says_when_to_come_back(before: Before) -> None:
    async with before("upstream: one", upstreams=CIRCUIT, one=Target([BUSY])) as gateway:
        assert [await gateway.status(), await gateway.status()] == [503, 503]
        answer = await gateway.answer()
        assert b"\r\nretry-after: 1\r\n" in answer.lower()
        assert answer.count(b"/problems/circuit-open") == 1


async def test_another_upstream_answers_and_is_billed_once(before: Before) -> None:
    route = f"upstream: one, fallback: {{upstream: two}}, {METERED}"
    async with before(route, one=Target([BUSY])) as gateway:
        assert (await gateway.answer(PAID)).endswith(b"other")
        assert [(event.upstream, event.status) for event in gateway.events()] == [("two", 200)]


@pytest.mark.parametrize("arriving", ["with its head", "in pieces"])
async def test_another_upstream_gets_the_body_from_its_first_byte(before: Before, arriving: str) -> None:
    other, first = Target([OTHER]), Target([BUSY])
    put = POST.replace(b"POST", b"PUT")
    async with (
        before("upstream: one, fallback: {upstream: two}", one=first, two=other) as gateway,
        calling(gateway) as client,
    ):
        if arriving == "in pieces":
            await client.say(put[:-5])
            assert await eventually(lambda: b"PUT" in first.text)
        await client.say(put[-5:] if arriving == "in pieces" else put)
        assert (await client.answer()).endswith(b"other")
        assert other.text.endswith(b"\r\n\r\nhello")


async def test_what_may_have_been_done_is_not_done_again_elsewhere(before: Before) -> None:
    other = Target([OTHER])
    async with before("upstream: one, fallback: {upstream: two}", one=Target([BUSY]), two=other) as gateway:
        assert await gateway.status(POST) == 503
        assert other.text == b""


async def test_what_the_fallback_answers_is_the_answer(before: Before) -> None:
    async with before("upstream: one, fallback: {upstream: two}", one=Target([BUSY]), two=Target([BUSY])) as gateway:
        assert await gateway.status() == 503
        assert gateway.counted("tallygate_fallbacks_total", "r", "503") == 1


async def test_a_canary_that_fails_falls_back_to_the_old_version(before: Before) -> None:
    route = "split: [{upstream: one, weight: 1}, {upstream: two, weight: 9}], fallback: {upstream: one}"
    async with before(route, two=Target([BUSY])) as gateway:
        assert set(await bodies(gateway, ASK, 30)) == {b"ok"}


async def test_a_client_that_leaves_ends_the_call_of_the_fallback(before: Before) -> None:
    hanging = Scripted(silence)
    route = "upstream: one, fallback: {upstream: two}, bulkhead: {max_in_flight: 1}"
    async with before(route, one=Target([BUSY, OK]), two=hanging) as gateway:
        async with calling(gateway) as client:
            await client.say(ASK)
            assert await eventually(lambda: hanging.active == 1)
            client.vanish()
        assert await eventually(lambda: hanging.active == 0)
        async with asyncio.timeout(5):
            assert await gateway.status() in (200, 503), "its place is free again"


# Places of the route


PLACES = "upstream: one, bulkhead: {max_in_flight: 1, max_waiting: 1, wait_timeout: 300ms}"


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_place_is_given_back_with_the_last_byte_and_goes_to_who_waits(before: Before, leaves: bool) -> None:
    held = Held()
    async with (
        before(PLACES.replace("300ms", "5s"), one=Scripted(held, respond(OK))) as gateway,
        calling(gateway) as first,
        calling(gateway) as second,
    ):
        await first.say(ASK)
        await first.hear(b"\r\n\r\n")
        await second.say(ASK)
        assert await eventually(lambda: gateway.counted("tallygate_bulkhead_waiting", "route", "r") == 1)
        assert await gateway.status() == 503, "the queue is full"
        if leaves:
            first.vanish()
        else:
            held.opened.set()
        assert (await second.answer()).startswith(b"HTTP/1.1 200 ")


async def test_who_waits_too_long_is_told_when_to_come_back_and_places_outlive_a_reload(before: Before) -> None:
    held = Held()
    async with before(PLACES, one=Scripted(held, respond(OK))) as gateway, calling(gateway) as first:
        await first.say(ASK)
        await first.hear(b"\r\n\r\n")
        await gateway.take(
            f"{UPSTREAMS}routes: [{{name: r, {PLACES}}}, {{name: s, match: {{path: /s}}, upstream: two}}]\n"
        )
        answer = await gateway.answer()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 1\r\n" in answer.lower()
        assert gateway.counted("tallygate_bulkhead_refusals_total", "route", "r", "late") == 1
        assert await gateway.status(b"GET /s HTTP/1.1\r\nHost: a\r\n\r\n") == 200, "other routes have room"
        held.opened.set()
        await first.hear(b"ok")
        assert await gateway.status() == 200


async def test_places_of_route_and_upstream_are_both_given_back(before: Before) -> None:
    upstreams = UPSTREAMS.replace('["<one>"]', '["<one>"], bulkhead: {max_in_flight: 1, max_waiting: 0}')
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"

    async def slowly(line: Line) -> None:
        while True:
            await line.head()
            await line.say(chunked[:-5])
            await asyncio.sleep(0.01)
            await line.say(chunked[-5:])

    async with before(PLACES, upstreams=upstreams, one=Scripted(slowly)) as gateway:
        for _ in range(3):
            async with calling(gateway) as client:
                await client.say(ASK)
                await client.hear(b"0\r\n\r\n")


@pytest.fixture(autouse=True)
async def nothing_is_left_behind() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    own = asyncio.current_task()
    assert await eventually(lambda: asyncio.all_tasks() - {own} <= before)
