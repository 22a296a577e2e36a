"""Targets that die, fail or swallow all, under load: no idempotent request fails, none hangs, each is billed once."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.journeys.line import Answer, Load
from tests.journeys.node import Node, metered, until
from tests.journeys.upstream import Call, Upstream

CLIENTS, THRESHOLD, EJECTION_SECONDS = 8, 3, 1.0
RETRY = {"attempts": 3, "base": "5ms", "max": "50ms", "budget": "100%"}


class Fickle(Upstream):
    """It breaks off all calls while it `fails`, and never answers while it is `silent`."""

    fails = False
    silent = False

    def called(self, call: Call) -> None:
        if self.fails or self.silent:
            self.seen[call.name] += 1
            if self.fails:
                call.break_off()
        else:
            super().called(call)


@pytest.fixture
async def other() -> AsyncIterator[Fickle]:
    other = Fickle()
    await other.start()
    yield other
    await other.stop()


def route(node: Node, **options: Any) -> None:
    """The route that is asked: metered, and before any other."""
    made = {"name": "tried", "match": {"path": "/tried/*"}, "plugins": metered("requests"), **options}
    node.config["routes"].insert(0, made)


def url(upstream: Upstream) -> str:
    return f"http://127.0.0.1:{upstream.port}"


async def test_a_target_that_dies_under_load_costs_no_request(node: Node, upstream: Upstream, other: Fickle):
    passive = {"failures": THRESHOLD, "ejection": f"{EJECTION_SECONDS:g}s"}
    node.config["upstreams"]["pair"] = {
        "targets": [url(upstream), url(other)],
        "retry": RETRY,
        "health": {"passive": passive, "panic_threshold": "0%"},
    }
    route(node, upstream="pair")
    await node.start()

    async def unavailable(number: int) -> bool:
        labels = 'state="unavailable",upstream="pair"'
        return await node.metric("tallygate_upstream_targets", labels) == number

    async with Load(node.port, "/tried/quick", clients=CLIENTS) as load:
        await load.answered(500)
        await other.stop()
        await until(lambda: unavailable(1), 5)
        began = time.monotonic()
        failures = await node.metric("tallygate_upstream_failures_total", 'upstream="pair"')
        assert failures <= THRESHOLD + 2 * CLIENTS, "what was in flight when it died, and what it takes to see that"
        await other.start()
        await until(lambda: unavailable(0), EJECTION_SECONDS + 2)
        assert time.monotonic() - began < EJECTION_SECONDS + 2, "and a second in which to look"
        heard = other.seen.total()
        await load.answered(200)
        assert other.seen.total() > heard, "it serves again"
    assert load.failures == []
    assert Counter(answer.status for answer in load.answers) == {200: len(load.answers)}
    rows = await node.booked([answer.id for answer in load.answers])
    assert len(rows) == len(load.answers), "an attempt that was repeated is no second use"


async def test_an_upstream_that_fails_is_given_a_rest_and_others_answer(node: Node, upstream: Upstream, other: Fickle):
    circuit = {"minimum_requests": 10, "recovery_timeout": "1s", "half_open_requests": 2, "window": "5s"}
    node.config["upstreams"]["fickle"] = {"targets": [url(other)], "circuit_breaker": circuit}
    plugins = metered("requests")
    match = {"path": "/replied/*"}
    replied = {"reply": {"status": 203, "json": {"from": "the fallback"}}}
    route(node, upstream="fickle", fallback={"upstream": "behind"})
    route(node, name="replied", match=match, upstream="fickle", fallback=replied, plugins=plugins)
    await node.start()

    async def circuit_is(state: int) -> bool:
        return await node.metric("tallygate_breaker_state", 'target="all",upstream="fickle"') == state

    async with Load(node.port, "/tried/quick", "/replied/quick", clients=CLIENTS) as load:
        await load.answered(300)
        other.fails = True
        await until(lambda: circuit_is(2), 5)
        heard = other.seen.total()
        await load.answered(300)
        assert other.seen.total() <= heard + CLIENTS, "it is left alone"
        other.fails = False
        await until(lambda: circuit_is(0), 5)
        heard = other.seen.total()
        await load.answered(300)
        assert other.seen.total() > heard
    assert load.failures == []
    statuses = Counter(answer.status for answer in load.answers)
    assert set(statuses) == {200, 203}
    assert upstream.seen.total() > 0
    rows = await node.booked([answer.id for answer in load.answers])
    assert len(rows) == len(load.answers), "a reply of the fallback is one use, and so is what another upstream served"


@pytest.fixture
def black_hole() -> Iterator[str]:
    """An address that takes no connection and refuses none: its queue is full, and nobody accepts."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        crowd = []
        for _ in range(8):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(listening.getsockname())
            crowd.append(sock)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        for sock in crowd:
            sock.close()


async def test_a_black_hole_hangs_nobody_beyond_the_deadline(node: Node, upstream: Upstream, black_hole: str):
    timeouts = {"connect": "300ms", "total": "1s"}
    node.config["upstreams"] |= {
        "hole": {"targets": [black_hole], "timeouts": timeouts},
        "pair": {"targets": [black_hole, url(upstream)], "timeouts": timeouts, "retry": RETRY},
    }
    route(node, upstream="hole")
    route(node, name="saved", match={"path": "/saved/*"}, upstream="hole", fallback={"upstream": "behind"})
    route(node, name="pair", match={"path": "/pair/*"}, upstream="pair")
    await node.start()

    async def asked(path: str) -> list[Answer]:
        lines = [await node.line() for _ in range(10)]
        return list(await asyncio.gather(*[line.ask(path) for line in lines]))

    for path, status in (("/tried/quick", 502), ("/saved/quick", 200), ("/pair/quick", 200)):
        answers = await asked(path)
        assert {answer.status for answer in answers} <= {status, 504}
        assert all(answer.status == 200 for answer in answers) == (status == 200)
        assert max(answer.seconds for answer in answers) < 1.0 + 0.5, path


async def test_a_silent_target_costs_callers_no_more_than_a_hedge_waits(node: Node, upstream: Upstream, other: Fickle):
    hedged = {"retry": RETRY | {"hedge": {"after": "100ms"}}}
    node.config["upstreams"]["pair"] = {"targets": [url(upstream), url(other)], **hedged}
    route(node, upstream="pair")
    await node.start()
    other.silent = True
    async with Load(node.port, "/tried/quick", clients=CLIENTS) as load:
        await load.answered(300)
    assert load.failures == []
    assert {answer.status for answer in load.answers} == {200}
    assert other.seen.total() <= 0.6 * len(load.answers), "one of two, in turn: it meets half of the calls"
    assert sorted(answer.seconds for answer in load.answers)[len(load.answers) // 4] < 0.1, (
        "who meets the other waits not"
    )
    assert load.slowest() < 0.1 + 1.0
    rows = await node.booked([answer.id for answer in load.answers])
    assert len(rows) == len(load.answers), "the attempt that lost is no second use"
