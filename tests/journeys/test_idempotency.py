"""Requests with an idempotency key on two edge processes: sent several times at once, and while both are killed.

Whatever happens the upstream is called once for each key, unless the process that called it died before it had the
answer: then once more. What is given again is not billed again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import pytest

from tests.journeys.line import Answer, Line
from tests.journeys.node import Node
from tests.journeys.upstream import BODY, Upstream

LOCK_SECONDS = 2.0
KEYED = "Idempotency-Key: {key}\r\nContent-Length: 0\r\n"


@pytest.fixture
def keyed(node: Node) -> Node:
    """Two processes, and a route for requests with a key."""
    orders: dict[str, Any] = {
        "name": "orders",
        "match": {"path": "/orders/*"},
        "upstream": "behind",
        "plugins": [
            {"key_auth": None},
            {"metering": {"meters": ["requests"]}},
            {"idempotency": {"required": True, "lock": f"{LOCK_SECONDS:g}s", "wait": "10s"}},
        ],
    }
    node.config["routes"].insert(0, orders)
    node.config["processes"] = 2
    return node


async def send(node: Node, key: str) -> Line:
    line = await node.line()
    line.send("/orders/held", "POST", KEYED.format(key=key))
    return line


def is_again(answer: Answer) -> bool:
    assert (answer.status, answer.body) == (200, BODY)
    return "idempotent-replayed" in answer.fields


async def test_sent_at_once_to_several_processes(keyed: Node, upstream: Upstream):
    await keyed.start()
    lines = [await send(keyed, "k1") for _ in range(12)]
    (await upstream.call()).answer()
    answers = [await line.answer() for line in lines]
    (first,) = [answer for answer in answers if not is_again(answer)]
    rows = await keyed.booked([first.id])
    assert [row.id for row in rows.values() if row.route == "orders"] == [first.id]
    assert upstream.held.empty()


async def test_a_client_that_leaves_and_comes_back(keyed: Node, upstream: Upstream):
    """Its call goes on, and it pays when it fetches the answer."""
    await keyed.start()
    line = await send(keyed, "k1")
    call = await upstream.call()
    line.leave(reset=True)
    assert await call.lives(0.3)
    call.answer()
    answers = [await (await send(keyed, "k1")).answer() for _ in range(3)]
    assert all(map(is_again, answers))
    assert upstream.held.empty()
    rows = await keyed.booked([answers[0].id])
    assert [row.id for row in rows.values() if row.route == "orders"] == [answers[0].id]


async def test_processes_that_die_free_their_keys(keyed: Node, upstream: Upstream):
    await keyed.start()
    victims = keyed.edge_pids()
    await send(keyed, "k1")
    await upstream.call()
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    line = await send(keyed, "k1")
    second = await upstream.call(20)
    assert time.monotonic() - killed > LOCK_SECONDS / 2
    second.answer()
    answer = await line.answer()
    assert not is_again(answer)
    again = await asyncio.gather(*[(await send(keyed, "k1")).answer() for _ in range(4)])
    assert all(map(is_again, again))
    assert upstream.held.empty()
    rows = await keyed.booked([answer.id])
    assert [row.id for row in rows.values() if row.route == "orders"] == [answer.id]
