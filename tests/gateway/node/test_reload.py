"""Reload: all processes take a configuration or none does, whoever dies meanwhile; with a stand-in for an edge."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.config.composition import load
from gateway.node import edge_process
from gateway.node.processes import Supervisor
from gateway.node.run_directory import RunDirectory
from gateway.problem import ConfigurationRefused
from tests.fixtures.ports import free_port
from tests.gateway.node.test_processes import STUB, until


class Node:
    """A supervisor with two stand-ins. `routes` is what the file says they shall answer."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "gateway.yaml"
        self.run = RunDirectory()
        self.ports = [free_port(), free_port()]
        self.binds = [self.ports[0]]
        self.more = ""
        self.write("first")
        self.supervisor = Supervisor(load(self.path, {}), self.path, self.run, environment={}, program=STUB)

    def write(self, *routes: str, processes: int = 2, budget: str = "64MiB") -> None:
        """What the file says from now on."""
        listeners = "\n".join(f'  - {{bind: "127.0.0.1:{port}"}}' for port in self.binds)
        named = "\n".join(f"  - {{name: {name}, upstream: nobody, match: {{path: /{name}}}}}" for name in routes)
        text = """
            admin: {{bind: "127.0.0.1:0"}}
            processes: {processes}
            drain_timeout: 5s
            stores: {{redis: "redis://127.0.0.1:1/0", postgres: "postgresql://127.0.0.1:1/none"}}
            upstreams: {{nobody: {{targets: ["http://127.0.0.1:1"]}}}}
            usage: {{journal: {{directory: {journal}, segment: 64KiB, budget: {budget}}}}}
        """
        text = textwrap.dedent(text).format(processes=processes, journal=self.directory / "journal", budget=budget)
        self.path.write_text(f"{text}{self.more}\nlisteners:\n{listeners}\nroutes:\n{named}\n")

    async def routes(self, port: int = 0) -> dict[str, str]:
        """What the process in each slot answers, once both have."""
        found: dict[str, str] = {}
        while len(found) < 2:
            slot, routes, _ = (await self._ask("127.0.0.1", port or self.ports[0], "GET", "/0"))[1].split()
            found[slot] = routes
        return found

    async def admin(self, path: str, method: str = "GET") -> tuple[int, str]:
        host, _, port = self.supervisor.admin_address.rpartition(":")
        return await self._ask(host, int(port), method, path)

    async def _ask(self, host: str, port: int, method: str, path: str) -> tuple[int, str]:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        return int(head.split()[1]), body.decode()

    async def metric(self, name: str) -> float:
        page = (await self.admin("/metrics"))[1]
        return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith(name))

    async def refusal(self) -> list[str]:
        with pytest.raises(ConfigurationRefused) as refused:
            await self.supervisor.reload()
        errors: list[str] = refused.value.members["errors"]
        return errors


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path)
    await node.supervisor.start()
    yield node
    await node.supervisor.stop(1.0)
    node.run.remove()


def both(routes: str) -> dict[str, str]:
    return {"0": routes, "1": routes}


async def test_all_processes_take_it(node: Node) -> None:
    pids = [child.pid for child in node.supervisor.children]
    assert await node.routes() == both("first")
    node.write("first", "second")
    assert await node.supervisor.reload() == ["  route second: added, with nothing to guard it"]
    assert await node.routes() == both("first,second")
    assert [child.pid for child in node.supervisor.children] == pids
    state = json.loads((await node.admin("/ready"))[1])["configuration"]
    assert (state["generation"], state["processes"]) == (2, {"edge-0": 2, "edge-1": 2})
    assert state["last_reload"]["taken"] is True
    assert await node.supervisor.reload() == []


async def test_over_admin(node: Node) -> None:
    node.write("first", "second")
    status, body = await node.admin("/reload", "POST")
    assert (status, json.loads(body)["changes"]) == (200, ["  route second: added, with nothing to guard it"])
    assert [route["name"] for route in json.loads((await node.admin("/routes"))[1])["routes"]] == ["first", "second"]
    assert "route second" in json.loads((await node.admin("/configuration"))[1])["configuration"]
    node.path.write_text("listeners: []\nroutes: []\nwrong: 1\n")
    status, body = await node.admin("/reload", "POST")
    assert status == 422
    assert len(json.loads(body)["errors"]) == 3
    assert await node.routes() == both("first,second")


async def test_a_file_that_is_wrong_is_refused_with_all_that_is_wrong(node: Node) -> None:
    node.path.write_text("listeners: []\nroutes: []\n")
    path = node.path
    assert await node.refusal() == [
        f"{path}:1: listeners: needs at least 1 item",
        f"{path}:2: routes: needs at least 1 item",
    ]
    assert await node.routes() == both("first")
    assert await node.metric("tallygate_config_last_reload_success") == 0
    assert await node.metric('tallygate_config_reloads_total{result="refused"}') == 1
    node.write("first", "second")
    await node.supervisor.reload()
    assert await node.metric("tallygate_config_last_reload_success") == 1
    assert await node.metric('tallygate_config_reloads_total{result="taken"}') == 1


async def test_what_cannot_change_is_named(node: Node) -> None:
    node.write("first", "second", processes=3, budget="1GiB")
    where = node.path
    assert sorted(await node.refusal()) == [
        f"{where}:3: processes: cannot change while the gateway runs: a restart is needed",
        f"{where}:7: usage.journal.budget: cannot change while the gateway runs: a restart is needed",
    ]
    assert await node.routes() == both("first")


async def test_what_one_process_refuses_none_takes(node: Node) -> None:
    node.write("refused")
    assert await node.refusal() == ["the stub will not have it"]
    assert await node.routes() == both("first")
    node.write("first", "second")
    await node.supervisor.reload()
    assert await node.routes() == both("first,second")


async def test_a_process_that_says_nothing_is_not_waited_for_for_ever(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_process, "BUILD_SECONDS", 0.3)
    node.write("silent")
    assert await node.refusal() == [f"edge-{slot} has not built it within 0.3 s" for slot in (0, 1)]
    assert await node.routes() == both("first")
    node.write("second")
    await node.supervisor.reload()
    assert await node.routes() == both("second")


async def test_what_kills_processes_is_not_taken(node: Node) -> None:
    node.write("deadly")
    assert await node.refusal() == [f"edge-{slot} ended twice while building it" for slot in (0, 1)]
    await until(lambda: all(child.ready for child in node.supervisor.children))
    assert await node.routes() == both("first")


async def test_who_dies_while_building_is_asked_again(node: Node) -> None:
    node.write("deadly-once")
    await node.supervisor.reload()
    assert await node.routes() == both("deadly-once")
    assert [child.starts for child in node.supervisor.children] == [2, 2]


async def test_who_does_not_go_over_is_started_again_with_what_is_current(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_process, "COMMIT_SECONDS", 0.3)
    node.write("uncommitted")
    await node.supervisor.reload()
    assert await node.routes() == both("uncommitted")
    assert [child.starts for child in node.supervisor.children] == [2, 2]


async def test_a_replacement_runs_what_was_taken_and_not_what_the_file_says(node: Node) -> None:
    node.write("second")
    await node.supervisor.reload()
    node.path.write_text("half a fi")
    for child in node.supervisor.children:
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
    assert await node.routes() == both("second")
    assert len(await node.refusal()) == 1


async def test_who_starts_during_a_reload_catches_up(node: Node) -> None:
    (node.run.path / "slow-start").touch()
    first = node.supervisor.children[0]
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    await until(lambda: first.starts == 2)
    for name in ("second", "third"):
        node.write(name)
        await node.supervisor.reload()
    assert not first.ready
    await until(lambda: first.ready)
    assert await node.routes() == both("third")
    assert first.starts == 2
    state = json.loads((await node.admin("/ready"))[1])["configuration"]
    assert (state["generation"], state["processes"]) == (3, {"edge-0": 3, "edge-1": 3})


async def test_listeners_come_and_go(node: Node) -> None:
    first, second = node.ports
    node.binds = [first, second]
    node.write("first")
    assert await node.supervisor.reload() == [f"  listener 127.0.0.1:{second}: added"]
    assert await node.routes(second) == both("first")
    assert node.supervisor.addresses == [f"127.0.0.1:{port}" for port in node.ports]
    node.binds = [second]
    node.write("first")
    await node.supervisor.reload()
    assert await node.routes(second) == both("first")
    with pytest.raises(ConnectionRefusedError):
        await node.routes(first)
    node.binds = [second, first]
    node.write("first")
    await node.supervisor.reload()
    assert await node.routes(first) == await node.routes(second) == both("first")


async def test_a_listener_of_a_configuration_that_is_refused_leaves_no_trace(node: Node) -> None:
    node.binds = node.ports
    node.write("refused")
    assert await node.refusal() == ["the stub will not have it"]
    with pytest.raises(ConnectionRefusedError):
        await node.routes(node.ports[1])
    with socket.create_server(("127.0.0.1", node.ports[1])):
        node.write("second")
        assert await node.refusal() == [f"cannot listen on 127.0.0.1:{node.ports[1]}: the port is in use"]
    assert await node.routes() == both("first")
    await node.supervisor.reload()
    assert await node.routes(node.ports[1]) == both("second")


async def test_a_listener_cannot_come_back_before_all_have_let_go_of_it(node: Node) -> None:
    """A process that is just starting was handed the old socket: the port's connections would be shared with it."""
    first, second = node.ports
    node.binds = [first, second]
    node.write("first")
    await node.supervisor.reload()
    (node.run.path / "slow-start").touch()
    starting = node.supervisor.children[0]
    assert starting.pid is not None
    os.kill(starting.pid, signal.SIGKILL)
    await until(lambda: starting.starts == 2)
    node.binds = [first]
    node.write("first")
    await node.supervisor.reload()
    node.binds = [first, second]
    node.write("first")
    assert await node.refusal() == [f"cannot listen on 127.0.0.1:{second}: the port is in use"]
    await until(lambda: starting.ready)
    await node.supervisor.reload()
    assert await node.routes(second) == both("first")


async def test_reloads_at_once_share_their_work(node: Node) -> None:
    node.write("first", "second")
    outcomes = await asyncio.gather(*[node.supervisor.reload() for _ in range(20)])
    assert outcomes == [["  route second: added, with nothing to guard it"]] * 20
    assert await node.metric('tallygate_config_reloads_total{result="taken"}') == 1
    started = asyncio.create_task(node.supervisor.reload())
    await asyncio.sleep(0)
    node.write("third")  # whoever asks after this must not be answered with what was read before it
    await asyncio.gather(*[node.supervisor.reload() for _ in range(20)])
    await started
    assert await node.routes() == both("third")
    assert await node.metric('tallygate_config_reloads_total{result="taken"}') == 3


async def test_who_no_longer_wants_to_know_cancels_nothing(node: Node) -> None:
    node.write("second")
    waiting = [asyncio.create_task(node.supervisor.reload()) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await waiting[1]
    assert await node.routes() == both("second")


async def test_a_change_of_the_file_is_noticed_where_that_is_wanted(node: Node) -> None:
    node.more = "reload: {watch: true}\n"
    node.write("second")
    await asyncio.sleep(2.5)
    assert await node.routes() == both("first"), "nobody has asked for it yet"
    node.supervisor.reload_soon()
    await until(lambda: node.supervisor.config.reload.watch)
    node.write("third")
    await until(lambda: [route.name for route in node.supervisor.config.routes] == ["third"])
    assert await node.routes() == both("third")
    node.path.write_text("half a fi")
    await until(lambda: node.supervisor.readiness()[1]["configuration"]["last_reload"]["taken"] is False)
    node.write("fourth")
    await until(lambda: [route.name for route in node.supervisor.config.routes] == ["fourth"])


async def test_stopping_breaks_a_reload_off(node: Node) -> None:
    node.write("silent")
    reload = asyncio.create_task(node.supervisor.reload())
    await asyncio.sleep(0.3)
    await asyncio.wait_for(node.supervisor.stop(1.0), 10)
    await asyncio.wait({reload})
    assert reload.cancelled() or reload.exception() is not None
