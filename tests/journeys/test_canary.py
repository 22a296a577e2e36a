"""A new version takes a share of the callers, and a third one gets copies, while everything is billed exactly once.

The copies go to an upstream that never answers: nobody but the metrics may notice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.journeys.line import Load
from tests.journeys.node import Node, metered, until
from tests.journeys.upstream import Call, Upstream

CLIENTS = 8


class Silent(Upstream):
    """It counts calls and never answers any."""

    def called(self, call: Call) -> None:
        self.seen[call.name] += 1


@pytest.fixture
async def canary() -> AsyncIterator[Upstream]:
    canary = Upstream()
    await canary.start()
    yield canary
    await canary.stop()


@pytest.fixture
async def silent() -> AsyncIterator[Upstream]:
    silent = Silent()
    await silent.start()
    yield silent
    await silent.stop()


@pytest.fixture
async def split(node: Node, canary: Upstream, silent: Upstream) -> dict[str, Any]:
    """The route that is split, on a node with two processes that is started with it."""
    node.config["processes"] = 2
    for name, upstream in (("canary", canary), ("silent", silent)):
        node.config["upstreams"][name] = {"targets": [f"http://127.0.0.1:{upstream.port}"]}
    split = {
        "name": "split",
        "match": {"path": "/split/*"},
        "split": [{"upstream": "behind", "weight": 90}, {"upstream": "canary", "weight": 10}],
        "mirror": {"upstream": "silent", "share": "20%", "max_in_flight": 4, "timeout": "1s"},
        "plugins": metered("requests"),
    }
    node.config["routes"].insert(0, split)
    await node.start()
    return split


async def test_a_share_goes_to_the_canary_and_copies_into_silence(
    node: Node, split: dict[str, Any], upstream: Upstream, canary: Upstream, silent: Upstream
):
    async with Load(node.port, "/split/quick", clients=CLIENTS) as load:
        await load.answered(2000)
        split["split"][1]["weight"] = 90
        status, said = await node.reload()
        assert (status, said["changes"]) == (200, ["  route split: split[canary].weight 10 → 90"])
        before = canary.seen.total(), upstream.seen.total()
        await load.answered(1000)
        after = canary.seen.total(), upstream.seen.total()
    assert load.failures == []
    assert [answer.body for answer in load.answers if answer.status != 200] == []
    assert before[0] / sum(before) == pytest.approx(0.1, abs=0.04)
    more = after[0] - before[0], after[1] - before[1]
    assert more[0] / sum(more) == pytest.approx(0.5, abs=0.08)

    assert load.slowest() < 0.5, "the mirror takes a second to give up, and nobody waits for it"
    assert silent.seen.total() > 0
    assert len(silent.transports) <= 2 * 4

    async def given_up() -> bool:
        sent = [await node.metric("tallygate_mirror_requests_total", f'result="{result}"') for result in RESULTS]
        return sent[0] == 0 and sent[1] == silent.seen.total() and sent[2] > sent[1]

    await until(given_up)
    assert set((canary.seen + upstream.seen).values()) == {1}, "each request was served once"

    rows = await node.booked([answer.id for answer in load.answers])
    assert len(rows) == len(load.answers)
    assert await node.end_edge(15) == 0
    assert await node.reconcile() == (0, f"{len(rows):,} records accounted for, {len(rows):,} booked\nno gaps\n")
    assert "Traceback" not in node.log("edge")


RESULTS = ("mirrored", "failed", "left_out")


async def test_a_caller_stays_where_it_is_in_every_process(
    node: Node, split: dict[str, Any], upstream: Upstream, canary: Upstream
):
    del split["mirror"]
    split["split_by"] = {"header": "x-user"}
    split["split"][1]["weight"] = 45
    assert (await node.reload())[0] == 200
    placed: dict[int, set[str]] = {}
    for _ in range(4):  # on connections of their own, so that both processes are asked
        for user in range(24):
            line = await node.line()
            name = line.send("/split/quick", fields=f"X-User: u{user}\r\n")
            assert (await line.answer(name)).status == 200
            placed.setdefault(user, set()).add("canary" if canary.seen[name] else "behind")
            line.leave()
    assert all(len(places) == 1 for places in placed.values())
    assert {place for places in placed.values() for place in places} == {"canary", "behind"}
