"""Overview: routes, targets and processes of a node as its admin listener shows them; with a stand-in for an edge."""

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

from gateway.node import edge_process
from tests.gateway.node.test_processes import until
from tests.gateway.node.test_reload import Node


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path)
    await node.supervisor.start()
    yield node
    await node.supervisor.stop(1.0)
    node.run.remove()


async def asked(node: Node, path: str) -> dict[str, Any]:
    status, body = await node.admin(path)
    assert status == 200
    document: dict[str, Any] = json.loads(body)
    return document


async def test_each_process_says_how_its_targets_are(node: Node) -> None:
    document = await asked(node, "/routes")
    assert [(route["name"], route["destination"], route["match"]) for route in document["routes"]] == [
        ("first", {"upstreams": {"nobody": 1}}, {"path": "/first"})
    ]
    (target,) = document["upstreams"][0]["targets"]
    assert (target["health"], target["agreeing"]) == ("healthy", 2)
    assert {name: said["weight"] for name, said in target["processes"].items()} == {"edge-0": 0, "edge-1": 1}
    assert document["silent"] == []


@pytest.mark.parametrize("what", ["late", "nonsense"])
async def test_one_that_does_not_say_it_in_time_holds_nobody_up(node: Node, what: str) -> None:
    (node.run.path / f"{what}-1").touch()
    began = time.monotonic()
    document = await asked(node, "/routes")
    assert time.monotonic() - began < 1.8
    assert document["silent"] == ["edge-1"]
    assert list(document["upstreams"][0]["targets"][0]["processes"]) == ["edge-0"]
    (node.run.path / f"{what}-1").unlink()
    await asyncio.sleep(2.1)  # now the answer has come for which nobody waited
    assert (await asked(node, "/routes"))["silent"] == []
    node.write("first", "second")
    assert await node.supervisor.reload() == ["  route second: added, with nothing to guard it"]


async def test_one_that_is_stopped_or_dead_is_silent(node: Node) -> None:
    first, second = node.supervisor.children
    assert first.pid is not None
    assert second.pid is not None
    os.kill(first.pid, signal.SIGSTOP)
    os.kill(second.pid, signal.SIGKILL)
    await until(lambda: not second.ready)
    document = await asked(node, "/routes")
    assert document["silent"] == ["edge-0", "edge-1"]
    assert document["upstreams"][0]["targets"][0]["health"] == "unknown"
    os.kill(first.pid, signal.SIGCONT)
    await until(lambda: second.ready)


async def test_one_that_hangs_for_long_is_not_flooded_with_questions(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = node.supervisor._edges[0]
    pid = edge.child.pid
    assert pid is not None
    monkeypatch.setattr(edge_process, "REPORT_SECONDS", 0.002)
    os.kill(pid, signal.SIGSTOP)
    for _ in range(500):
        assert await edge.report() is None
    os.kill(pid, signal.SIGCONT)
    monkeypatch.setattr(edge_process, "REPORT_SECONDS", 5.0)
    assert await edge.report() is not None
    node.write("first", "second")
    assert await node.supervisor.reload() == ["  route second: added, with nothing to guard it"]


async def test_what_a_reload_has_brought_is_shown(node: Node) -> None:
    assert [route["name"] for route in (await asked(node, "/routes"))["routes"]] == ["first"]
    node.write("first", "second")
    await node.supervisor.reload()
    assert [route["name"] for route in (await asked(node, "/routes"))["routes"]] == ["first", "second"]
    status = await asked(node, "/status")
    assert status["configuration"]["last_reload"]["taken"] is True
    assert [process["generation"] for process in status["processes"]] == [2, 2]


async def test_the_status_of_a_node(node: Node) -> None:
    status = await asked(node, "/status")
    assert (status["ready"], status["draining"], status["listeners"]) == (True, False, node.supervisor.addresses)
    for process, child in zip(status["processes"], node.supervisor.children, strict=True):
        assert (process["name"], process["pid"], process["ready"]) == (child.name, child.pid, True)
        assert process["starts"] == 1
        assert 0 < process["up_seconds"] < 60
    assert list(status["traffic"]) == ["first"]
    assert set(status["stores"]) == {"redis", "postgres"}
    page = (await node.admin("/"))[1]
    assert "2 of 2 processes ready" in " ".join(page.split())


async def test_a_restart_is_shown(node: Node) -> None:
    child = node.supervisor.children[0]
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    await until(lambda: child.starts == 2 and child.ready)
    (process, _) = (await asked(node, "/status"))["processes"]
    assert (process["starts"], process["pid"]) == (2, child.pid)


async def test_an_explanation_is_of_what_is_served(node: Node) -> None:
    node.write("other")
    assert (await asked(node, "/explain?url=/first"))["route"] == "first"
    assert (await asked(node, "/explain?url=/other"))["status"] == 404
    status, body = await node.admin("/explain?url=/%2e%2e/x")
    assert (status, json.loads(body)["title"]) == (400, "The request is not valid HTTP")
