"""What operators see is what is so: targets die and come back, a process hangs, traffic comes, a reload is refused."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.browser import browsing
from tests.journeys.line import Line
from tests.journeys.node import Node, until
from tests.journeys.upstream import Call, Upstream

PROBES = {"path": "/", "interval": "200ms", "timeout": "500ms", "healthy_after": 1, "unhealthy_after": 1}


@pytest.fixture
async def second() -> AsyncIterator[Upstream]:
    second = Upstream()
    await second.start()
    yield second
    await second.stop()


@pytest.fixture
async def started(node: Node, second: Upstream) -> Node:
    """Two edge processes before two targets that are probed."""
    behind = node.config["upstreams"]["behind"]
    behind["targets"].append(f"http://127.0.0.1:{second.port}")
    behind["health"] = PROBES
    node.config["processes"] = 2
    await node.start(worker=False)
    return node


async def targets(node: Node) -> dict[str, dict[str, Any]]:
    """What /routes says of each target."""
    (upstream,) = json.loads((await node.admin("/routes")).body)["upstreams"]
    return {target["name"]: target for target in upstream["targets"]}


async def words(node: Node) -> str:
    """The page, its white space made plain."""
    return " ".join((await node.admin("/")).body.decode().split())


async def test_a_target_dies_and_comes_back(started: Node, upstream: Upstream, second: Upstream) -> None:
    names = [f"http://127.0.0.1:{each.port}" for each in (upstream, second)]

    async def all_say(health: str) -> bool:
        target = (await targets(started))[names[1]]
        return bool(target["health"] == health and target["agreeing"] == 2)

    async def available(number: float) -> bool:
        return await started.metric("tallygate_target_available", f'target="{names[1]}"') == number

    await until(lambda: all_say("healthy"))
    await until(lambda: available(2))
    await second.stop()
    await until(lambda: all_say("unhealthy"))
    await until(lambda: available(0))
    found = await targets(started)
    assert found[names[0]]["health"] == "healthy"
    assert found[names[1]]["reason"] == "probe: connection refused"
    assert '<span class="badge bad">unhealthy</span> <small>probe: connection refused</small>' in await words(started)
    await second.start()
    await until(lambda: all_say("healthy"))
    await until(lambda: available(2))


async def test_calls_in_flight_and_what_the_last_ones_took(started: Node, upstream: Upstream, second: Upstream) -> None:
    lines = [await started.line() for _ in range(4)]
    for line in lines:
        line.send("/open/held")
    calls: list[Call] = []

    async def have_arrived() -> bool:
        for each in (upstream, second):
            while each.held.qsize():
                calls.append(await each.call())
        return len(calls) == len(lines)

    await until(have_arrived)
    found = (await targets(started)).values()
    assert sum(target["in_flight"] for target in found) == 4
    for call in calls:
        call.answer()
    for line in lines:
        await line.answer()
    await asyncio.sleep(1.0)  # for so long an answer is given again
    found = (await targets(started)).values()
    assert sum(target["in_flight"] for target in found) == 0
    assert any(target["latency_seconds"] for target in found)


async def test_a_process_that_hangs_is_named_and_not_waited_for(started: Node) -> None:
    processes = json.loads((await started.admin("/status")).body)["processes"]
    pid = next(process["pid"] for process in processes if process["name"] == "edge-1")
    await asyncio.sleep(1.0)  # for so long an answer is given again
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        page = await words(started)
        assert time.monotonic() - began < 1.0
        assert "edge-1 did not say in time how its targets are" in page
    finally:
        os.kill(pid, signal.SIGCONT)
    await asyncio.sleep(1.0)
    assert json.loads((await started.admin("/routes")).body)["silent"] == []


async def test_a_reload_that_was_refused_is_on_the_page(started: Node) -> None:
    started.config["routes"][0]["upstream"] = "<b>nowhere</b>"
    status, document = await started.reload()
    assert status == 422
    page = await words(started)
    assert '<span class="badge bad">refused</span>' in page
    assert "&lt;b&gt;nowhere&lt;/b&gt;" in page
    assert "<b>" not in page
    assert len(document["errors"]) == page.count("<li>gateway.yaml:")


async def test_the_page_in_a_browser_follows_the_traffic(started: Node, tmp_path: Path) -> None:
    admin = started.config["admin"]["bind"]
    async with browsing(tmp_path / "browser") as tab:
        await tab.open(f"http://{admin}/")
        route = "[...document.querySelectorAll('#routes tbody tr')].find((row) => row.textContent.includes('/open/*'))"
        rate = f"Number({route}.querySelector('[data-label=\"Requests/s\"]').textContent)"
        line = await Line.open(started.port)
        asking = asyncio.create_task(keep_asking(line))
        await tab.until(f"{rate} > 1")
        asking.cancel()
        await asyncio.wait({asking})
        line.leave()
        assert await tab.evaluate(f"{route}.querySelectorAll('svg polyline').length") == 1
        assert tab.complaints == []


async def keep_asking(line: Line) -> None:
    while True:
        assert (await line.ask("/open/x")).status == 200
        await asyncio.sleep(0.02)
