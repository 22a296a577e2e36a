"""A reload drops nothing: requests, streams and uploads go on, every answer is billed once, and no memory is left over.

Every reload changes routes, plugins and upstreams. One that is wrong is refused whole; a process that is killed during
one comes back with what was decided.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import time
from collections import Counter
from typing import Any

import psutil
import pytest

from tests.fixtures.ports import free_port
from tests.journeys import guardless
from tests.journeys.line import Cut, Line, Load
from tests.journeys.node import Node, until
from tests.journeys.upstream import Call, Upstream

RELOADS = 50
UPLOAD = 8 * 2**20


def change(node: Node, number: int) -> None:
    """Something else for each of the numbers: plugin options, an upstream's, a route that comes and goes."""
    node.config["plugins"] = [{"request_id": {"trust": bool(number % 2)}}]
    node.config["upstreams"]["behind"]["max_connections"] = 100 + number % 3
    routes = [route for route in node.config["routes"] if not route["name"].startswith("extra")]
    extra = {"name": f"extra-{number}", "match": {"path": f"/extra/{number}"}, "upstream": "behind"}
    node.config["routes"] = [extra, *routes]


async def generations(node: Node) -> dict[str, int]:
    found: dict[str, int] = (await node.ready())["configuration"]["processes"]
    return found


class Stream:
    """A long answer to one client, piece by piece."""

    def __init__(self, line: Line, call: Call) -> None:
        self._line = line
        self._call = call
        self.id = ""

    async def begin(self) -> None:
        self._call.begin()
        self.id = (await self._line.head())[1]["x-request-id"]

    async def goes_on(self, number: int) -> None:
        self._call.say(b"piece %d" % number)
        assert await self._line.piece() == b"piece %d" % number

    async def ends(self) -> None:
        self._call.end()
        assert await self._line.piece() == b""


class Sending:
    """A large request of one client, piece by piece."""

    def __init__(self, line: Line, call: Call) -> None:
        self._line = line
        self._call = call

    def goes_on(self) -> None:
        self._line.write(b"u" * (UPLOAD // RELOADS))

    async def ends(self) -> str:
        self._line.write(b"u" * (UPLOAD % RELOADS))

        async def arrived() -> bool:
            return self._call.received == UPLOAD

        await until(arrived)
        self._call.answer()
        answer = await self._line.answer()
        assert answer.status == 200
        return answer.id


async def test_fifty_reloads_under_load_drop_nothing(node: Node, upstream: Upstream):
    node.config |= {"processes": 2, "drain_timeout": "3s"}
    await node.start()
    line = await node.line()
    line.send("/held/stream")
    stream = Stream(line, await upstream.call())
    await stream.begin()
    line = await node.line()
    line.send("/held/upload", "POST", f"Content-Length: {UPLOAD}\r\n")
    upload = Sending(line, await upstream.call())

    slowest = 0.0
    async with Load(node.port, "/quick", "/ai/quick", "/quick", clients=16) as load:
        await load.answered(200)
        for number in range(RELOADS):
            change(node, number)
            began = time.monotonic()
            status, said = await node.reload()
            slowest = max(slowest, time.monotonic() - began)
            assert status == 200, said
            assert any(f"extra-{number}: added" in text for text in said["changes"]), said
            await stream.goes_on(number)
            upload.goes_on()
            await load.answered(20)
            if number == RELOADS // 2:
                await refuses_what_is_wrong(node)
        assert await generations(node) == {"edge-0": RELOADS + 1, "edge-1": RELOADS + 1}
    await stream.ends()
    uploaded = await upload.ends()

    assert load.failures == []
    assert load.refused == 0
    assert Counter(answer.status for answer in load.answers) == {200: len(load.answers)}
    print(f"{len(load.answers)} answers, p99 {load.slowest() * 1000:.1f} ms, slowest reload {slowest * 1000:.0f} ms")
    rows = await node.booked([*load.served, stream.id, uploaded])
    assert len(rows) == len(load.answers) + 2
    assert {row.outcome for row in rows.values()} == {"ok"}
    assert await node.metric("tallygate_config_retired_cut_total") == 0

    async def ended() -> bool:
        return await node.metric("tallygate_config_retired") == 0

    await until(ended)
    assert await node.end_edge(15) == 0
    assert await node.reconcile() == (0, f"{len(rows):,} records accounted for, {len(rows):,} booked\nno gaps\n")
    assert "Traceback" not in node.log("edge")


async def test_control_a_configuration_that_is_ended_at_once_takes_its_streams_along(
    node: Node, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
):
    """Without the guard the same stream is broken off: the test above can fail."""
    monkeypatch.setenv("GUARDLESS", "retirement")
    node.program = (guardless.__file__,)
    await node.start()
    line = await node.line()
    line.send("/held/stream")
    call = await upstream.call()
    await Stream(line, call).begin()
    change(node, 1)
    assert (await node.reload())[0] == 200
    assert not await call.lives(5)
    with pytest.raises(Cut):
        await line.piece()


async def refuses_what_is_wrong(node: Node) -> None:
    """All of it, although part of it could be taken."""
    before, good = await generations(node), node.config
    wrong = {"name": "wrong", "match": {"path": "/wrong"}, "upstream": "nobody"}
    for config, reason in (
        ({"routes": [*good["routes"], wrong]}, 'unknown upstream "nobody"'),
        ({"processes": 3}, "processes: cannot change while the gateway runs: a restart is needed"),
    ):
        node.config = good | config
        status, said = await node.reload()
        assert status == 422, said
        assert [reason in error for error in said["errors"]] == [True]
    assert await generations(node) == before
    assert await node.metric("tallygate_config_last_reload_success") == 0
    node.config = good


async def test_a_listener_is_added_and_removed_under_load(node: Node, upstream: Upstream):
    node.config |= {"processes": 2}
    await node.start()
    first, second = node.config["listeners"][0], {"bind": f"127.0.0.1:{free_port()}"}
    port = int(second["bind"].rpartition(":")[2])
    async with Load(node.port, clients=8) as load:
        for _ in range(5):
            node.config["listeners"] = [first, second]
            assert (await node.reload())[0] == 200
            async with Load(port, clients=8) as other:
                await other.answered(100)
                line = await Line.open(port)
                line.send("/held")
                call = await upstream.call()
                node.config["listeners"] = [first]
                assert (await node.reload())[0] == 200
                await other.refused_all()
            # A request may cross with the end of an idle connection: then nobody has seen it, and it can be sent again.
            assert not any(upstream.seen[failure.name] for failure in other.failures)
            call.answer()
            answer = await line.answer()
            assert (answer.status, answer.fields["connection"]) == (200, "close")
            await load.answered(50)
            line.leave()
    assert load.failures == []
    assert {answer.status for answer in load.answers} == {200}


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_an_edge_that_is_killed_during_a_reload_comes_back_with_what_was_decided(node: Node, seed: int):
    node.config |= {"processes": 2}
    await node.start()
    luck = random.Random(seed)
    async with Load(node.port, "/quick", "/ai/quick", clients=8) as load:
        for number in range(6):
            change(node, number)
            reload = asyncio.create_task(node.reload())
            await asyncio.sleep(luck.uniform(0, 0.06))
            os.kill(luck.choice(node.edge_pids()), signal.SIGKILL)
            status, said = await asyncio.wait_for(reload, 30)
            assert status == 200, said

            async def ready() -> bool:
                return bool((await node.ready())["ready"])

            await until(ready)
            assert len(set((await generations(node)).values())) == 1
            await load.answered(20)
            names = [route["name"] for route in (await routes(node))]
            assert names[0] == f"extra-{number}"
    await node.booked(load.served, 30.0)


async def routes(node: Node) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((await node.admin("/routes")).body)["routes"]
    return found


async def test_every_way_to_ask_for_it(node: Node):
    node.config |= {"processes": 2}
    await node.start()
    assert node.edge is not None
    node.config["plugins"] = [{"request_id": {"header": "X-By-Signal"}}]
    node.write()
    status, said = await node.tallygate("check", "--diff", "running")
    assert status == 0
    assert "  route api, plugin request_id: header X-Request-Id → X-By-Signal" in said.splitlines()
    node.edge.send_signal(signal.SIGHUP)

    async def answers_with(field: str) -> bool:
        line = await node.line()
        return field in (await line.ask("/open/quick")).fields

    await until(lambda: answers_with("x-by-signal"))
    node.config["plugins"] = [{"request_id": {"header": "X-By-Command"}}]
    node.config["reload"] = {"watch": True}
    node.write()
    status, said = await node.tallygate("reload")
    assert status == 0
    assert "  route api, plugin request_id: header X-By-Signal → X-By-Command" in said.splitlines()
    assert await answers_with("x-by-command")
    node.config["plugins"] = [{"request_id": {"header": "X-By-Watching"}}]
    node.config["reload"] = {"watch": False}
    node.write()
    await until(lambda: answers_with("x-by-watching"))

    api = next(route for route in node.config["routes"] if route["name"] == "api")
    api["plugins"] = [plugin for plugin in api["plugins"] if "key_auth" not in plugin]
    node.write()
    status, said = await node.tallygate("check", "--diff", "running")
    assert status == 1
    assert "! route api: authentication removed (it was key_auth)" in said.splitlines()
    node.config["processes"] = 4
    node.write()
    status, said = await node.tallygate("reload")
    assert status == 2
    assert "processes: cannot change while the gateway runs: a restart is needed" in said


async def test_memory_stays_flat(node: Node):
    """A leak of 20 KiB for each would show; `bin/bench reloads` does 10,000 and sees a hundredth of that."""
    node.config |= {"processes": 2}
    await node.start()
    assert node.edge is not None
    processes = [psutil.Process(pid) for pid in (node.edge.pid, *node.edge_pids())]
    line = await node.line()
    numbers = itertools.count()

    async def reload(times: int) -> list[int]:
        for number in itertools.islice(numbers, times):
            change(node, number % 10)
            assert (await node.reload())[0] == 200
            assert (await line.ask("/open/quick")).status == 200
        await asyncio.sleep(0.5)
        return [process.memory_info().rss for process in processes]

    before = await reload(100)
    after = await reload(200)
    growth = [now - then for then, now in zip(before, after, strict=True)]
    print("growth over 200 reloads in KiB:", [size // 1024 for size in growth])
    assert max(growth) < 4 * 2**20
