"""SIGTERM is an orderly end: what was accepted is finished, what is new is refused, and all of it is booked.

Clients keep asking while the supervisor is told to end. Requests in flight have `drain_timeout` to finish; what takes
longer is cut, and its usage says so. A second SIGTERM does not wait for anybody. A store that hangs holds nothing up:
what it did not take stays in the journal, and the next start sends it.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter

import pytest

from tests.fixtures.valkey import ValkeyServer
from tests.journeys.line import Cut, Load, Unanswered
from tests.journeys.node import Node, until
from tests.journeys.upstream import Upstream

FLUSH_SECONDS = 10.0
"""What a node may take on top of `drain_timeout`, as gateway/node/processes.py has it."""


async def test_under_load_nothing_that_was_accepted_is_lost(node: Node, upstream: Upstream):
    node.config |= {"processes": 2, "drain_timeout": "3s"}
    await node.start()
    idle, slow, streaming = [await node.line() for _ in range(3)]
    await idle.ask("/quick")
    slow.send("/ai/held")
    slow_call = await upstream.call()
    streaming.send("/held/stream")
    stream_call = await upstream.call()
    stream_call.begin()
    stream_call.say(b"one")
    _, stream_fields = await streaming.head()
    assert await streaming.piece() == b"one"
    async with Load(node.port) as load:
        await load.answered(300)
        began = time.monotonic()
        node.edge.send_signal(signal.SIGTERM)
        await load.refused_all()
        assert await node.refuses()
    assert await idle.closed() == b""
    stream_call.say(b"two")
    assert await streaming.piece() == b"two"
    await asyncio.sleep(began + 2.2 - time.monotonic())  # well within drain_timeout
    slow_call.answer()
    stream_call.end()
    answer = await slow.answer()
    assert (answer.status, answer.fields["connection"]) == (200, "close")
    assert await streaming.piece() == b""
    assert await asyncio.wait_for(node.edge.wait(), FLUSH_SECONDS) == 0, node.log("edge")
    assert time.monotonic() - began < 3 + FLUSH_SECONDS

    # A request may cross with the end of an idle connection: then nobody has seen it, and it can be sent again.
    for failure in load.failures:
        assert isinstance(failure.error, Unanswered), failure
        assert not upstream.seen[failure.name], failure
    rows = await node.booked([*load.served, answer.id, stream_fields["x-request-id"]])
    assert len(rows) == len(load.answers) + 3
    assert Counter(row.outcome for row in rows.values()) == {"ok": len(rows)}
    assert node.left_in_journal() == []
    assert await node.reconcile() == (0, f"{len(rows):,} records accounted for, {len(rows):,} booked\nno gaps\n")


async def test_what_outlasts_the_drain_is_cut_and_accounted_for(node: Node, upstream: Upstream):
    node.config |= {"drain_timeout": "1s"}
    await node.start()
    told, plain, streaming = [await node.line() for _ in range(3)]
    calls = []
    for line, path in ((told, "/ai/held"), (plain, "/held"), (streaming, "/held/stream")):
        line.send(path)
        calls.append(await upstream.call())
    calls[2].begin()
    calls[2].say(b"five!")
    head = await streaming.head()
    assert await streaming.piece() == b"five!"

    began = time.monotonic()
    status = asyncio.create_task(node.end_edge(1 + FLUSH_SECONDS))
    for line, end in ((told, Unanswered), (plain, Unanswered), (streaming, Cut)):
        with pytest.raises(end):
            await (line.piece() if line is streaming else line.head())
        assert 1.0 <= time.monotonic() - began < 3.0
    for call in calls:
        await asyncio.wait_for(call.gone.wait(), 2)
    assert await status == 0
    assert time.monotonic() - began < 1 + FLUSH_SECONDS

    await node.booked([head[1]["x-request-id"]])
    rows = {row.route: row for row in await node.books()}
    # Nothing left for the plain one, so there is nothing to bill; the others are booked with what was delivered.
    assert rows.keys() == {"ai", "api"}
    assert (rows["ai"].outcome, rows["ai"].quantities) == ("client_gone", {"requests": 0, "tokens": 0})
    assert (rows["api"].outcome, rows["api"].quantities) == ("client_gone", {"requests": 0, "bytes_out": 5})
    assert node.left_in_journal() == []


async def test_a_call_that_is_finished_for_a_client_that_left_is_waited_for(node: Node, upstream: Upstream):
    await node.start()
    line = await node.line()
    line.send("/patient/held")
    call = await upstream.call()
    line.leave(reset=True)
    assert await call.lives(0.3)
    status = asyncio.create_task(node.end_edge(5 + FLUSH_SECONDS))
    await until(node.refuses)
    assert await call.lives(1.0)
    call.answer()
    assert await status == 0
    (row,) = await node.books()
    assert (row.outcome, row.quantities) == ("client_gone", {"requests": 0, "tokens": 7})


async def test_a_second_signal_does_not_wait(node: Node, upstream: Upstream):
    node.config |= {"processes": 2, "drain_timeout": "30s"}
    await node.start()
    line = await node.line()
    line.send("/ai/held")
    await upstream.call()
    async with Load(node.port) as load:
        await load.answered(200)
        node.edge.send_signal(signal.SIGTERM)
        await load.refused_all()
        assert node.edge.returncode is None
        began = time.monotonic()
        assert await node.end_edge(FLUSH_SECONDS) == 0
        assert time.monotonic() - began < 5
    with pytest.raises(Unanswered):
        await line.head()
    rows = await node.booked(load.served)
    (estimated,) = [row for row in rows.values() if row.outcome != "ok"]
    assert (estimated.outcome, estimated.quantities) == ("estimated", {"requests": 1, "tokens": 3})
    assert "Traceback" not in node.log("edge")


async def test_a_store_that_hangs_holds_nothing_up(node: Node, valkey: ValkeyServer):
    """Neither after one signal nor after two; the next start sends what was left."""
    node.config |= {"drain_timeout": "1s"}
    await node.start_worker()
    load = Load(node.port, "/quick", "/ai/quick")
    for signals in (1, 2):
        await node.start_edge()
        async with load:
            await load.answered(100)
            valkey.pause()
            try:
                await load.answered(200)
                await ends_in_time(node, load, signals)
            finally:
                valkey.resume()
        assert node.segments(), "what was not sent stays in the journal"
    await node.start_edge()
    rows = await node.booked(load.served)
    assert len(rows) == len(load.answers)
    assert await node.end_edge(1 + FLUSH_SECONDS) == 0
    assert node.left_in_journal() == []
    assert "Traceback" not in node.log("edge")


async def ends_in_time(node: Node, load: Load, signals: int) -> None:
    node.edge.send_signal(signal.SIGTERM)
    await load.refused_all()
    if signals == 2:
        node.edge.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(node.edge.wait(), 1 + FLUSH_SECONDS) == 0, node.log("edge")
