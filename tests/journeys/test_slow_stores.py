"""A store that hangs, or comes back empty, makes no client wait and loses nothing; it is reported, and made up for.

Valkey or PostgreSQL is stopped for some seconds under load (SIGSTOP: connections stay open, nothing is answered), and
continued. Requests are answered as fast as ever, memory stays bounded, and afterwards all of it is booked once.
"""

from __future__ import annotations

import signal
import time

import psutil

from gateway.metering.shipper import MEMORY_LIMIT
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.valkey import ValkeyServer
from tests.journeys.line import Load
from tests.journeys.node import Node, until

SLOWEST_SECONDS = 1.0
"""Within this 99 of 100 requests are answered, on a machine that is busy with other things as well."""


def own_memory(pid: int) -> int:
    """Bytes of a process that are in RAM, without the files it has mapped."""
    memory = psutil.Process(pid).memory_info()
    return int(memory.rss - memory.shared)


async def state_of(node: Node, store: str) -> str:
    ready = await node.ready()
    assert ready["ready"], "a store that is down keeps no edge from serving"
    return str(ready["stores"][store]["state"])


async def all_is_booked_once(node: Node, load: Load) -> None:
    assert not load.failures
    assert {answer.status for answer in load.answers} == {200}
    assert load.slowest() < SLOWEST_SECONDS
    rows = await node.booked(load.served)
    assert len(rows) == len(load.answers)

    async def nothing_waits() -> bool:
        return await node.metric("tallygate_usage_unaccounted_segments") == 0

    await until(nothing_waits)
    assert await node.reconcile() == (0, f"{len(rows):,} records accounted for, {len(rows):,} booked\nno gaps\n")


async def test_valkey_hangs(node: Node, valkey: ValkeyServer):
    """So long that the edge holds no more in memory: the rest is sent from the journal."""
    await node.start()
    (edge,) = node.edge_pids()

    async def memory_is_full() -> bool:
        assert await node.metric("tallygate_usage_unsent_bytes") <= MEMORY_LIMIT
        return await node.metric("tallygate_journal_dropped_from_memory_total") > 500

    async def reported() -> bool:
        return await state_of(node, "redis") == "down"

    async def back() -> bool:
        return await state_of(node, "redis") == "up"

    async with Load(node.port, "/bulky/quick") as load:
        await load.answered(200)
        assert await state_of(node, "redis") == "up"
        before = own_memory(edge)
        valkey.pause()
        try:
            await until(reported)
            assert "no answer" in (await node.ready())["stores"]["redis"]["reason"]
            await until(memory_is_full, 30)
            grown = own_memory(edge) - before
        finally:
            valkey.resume()
        await until(back)
        await load.answered(100)
    assert grown < 3 * MEMORY_LIMIT
    await all_is_booked_once(node, load)
    assert await node.metric("tallygate_usage_unsent_bytes") == 0


async def test_postgres_hangs(node: Node, postgres_server: PostgresServer):
    """Longer than the worker's statements may take: it drops its connections, and begins again with new ones."""
    node.config["billing"] |= {"statement_timeout": "500ms"}
    await node.start()

    async def queue_is_long() -> bool:
        return await node.metric("tallygate_stream_lag") > 20

    async def queue_is_empty() -> bool:
        return await node.metric("tallygate_stream_lag") == 0

    async def reported() -> bool:
        return await state_of(node, "postgres") == "down"

    async with Load(node.port, pause=0.005) as load:
        await load.answered(200)
        await node.booked(load.served)
        postgres_server.pause()
        try:
            began = time.monotonic()
            await until(reported)
            await until(queue_is_long)
            await load.answered(100)

            async def worker_gave_up() -> bool:
                return "its batch comes back" in node.log("worker")

            await until(worker_gave_up)
            assert time.monotonic() - began < 15
        finally:
            postgres_server.resume()
        await load.answered(100)
    await until(queue_is_empty)
    await all_is_booked_once(node, load)
    assert await state_of(node, "postgres") == "up"


async def test_valkey_comes_back_empty(node: Node, valkey: ValkeyServer):
    """With all that the worker had not read, and with the counts of what it had."""
    await node.start()
    async with Load(node.port, "/quick", "/ai/quick", pause=0.005) as load:
        await load.answered(100)
        node.worker.send_signal(signal.SIGSTOP)
        await load.answered(200)
        valkey.kill()

        async def sending_fails() -> bool:
            return await node.metric("tallygate_usage_send_errors_total") > 0

        await until(sending_fails)
        await load.answered(200)
        valkey.start()
        node.worker.send_signal(signal.SIGCONT)
        await load.answered(100)
    await all_is_booked_once(node, load)
    assert await node.metric("tallygate_usage_frames_resent_total") > 0
