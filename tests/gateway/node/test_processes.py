"""Processes: the supervisor keeps its edge processes, their sockets and their counters; with a stand-in for an edge."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gateway.config.composition import load
from gateway.config.configuration import GatewayConfig
from gateway.node.processes import StartFailed, Supervisor, slots_of
from gateway.node.run_directory import RunDirectory

STUB = (sys.executable, "-m", "tests.gateway.edge_stub")


def configuration(directory: Path, processes: int = 2, bind: str = "127.0.0.1:0", admin: str = "127.0.0.1:0") -> Path:
    path = directory / "gateway.yaml"
    path.write_text(
        textwrap.dedent(f"""
            listeners: [{{bind: "{bind}"}}]
            admin: {{bind: "{admin}"}}
            processes: {processes}
            drain_timeout: 5s
            stores: {{redis: "redis://127.0.0.1:1/0", postgres: "postgresql://127.0.0.1:1/none"}}
            upstreams: {{nobody: {{targets: ["http://127.0.0.1:1"]}}}}
            routes: [{{name: all, upstream: nobody, match: {{path: /*}}}}]
            usage: {{journal: {{directory: {directory / "journal"}, segment: 64KiB}}}}
            """)
    )
    return path


@pytest.fixture
def config(tmp_path: Path) -> GatewayConfig:
    return load(configuration(tmp_path), {})


class Node:
    """A running supervisor and how to talk to it."""

    def __init__(self, config: GatewayConfig, directory: Path) -> None:
        self.run = RunDirectory()
        self.supervisor = Supervisor(config, directory / "gateway.yaml", self.run, program=STUB)

    async def ask(self, path: str = "/0", address: str = "") -> tuple[int, bytes]:
        host, _, port = (address or self.supervisor.addresses[0]).rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        return int(head.split()[1]), body

    async def admin(self, path: str) -> tuple[int, bytes]:
        return await self.ask(path, self.supervisor.admin_address)

    async def served(self) -> float:
        page = (await self.admin("/metrics"))[1].decode()
        return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith("stub_served_total"))


@pytest.fixture
async def node(config: GatewayConfig, tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(config, tmp_path)
    await node.supervisor.start()
    yield node
    await node.supervisor.stop(1.0)
    node.run.remove()


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        await asyncio.sleep(0.01)


def alive(pid: int | None) -> bool:
    return pid is not None and Path(f"/proc/{pid}").exists()


async def test_all_slots_serve_and_the_kernel_shares_out(node: Node) -> None:
    answers = {(await node.ask())[1] for _ in range(60)}
    assert {answer.split()[0] for answer in answers} == {b"0", b"1"}
    assert await node.served() == 60


async def test_a_killed_process_loses_no_waiting_connection_and_no_count(node: Node) -> None:
    for _ in range(20):
        await node.ask()
    for child in node.supervisor.children:
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
    # Nobody lives in any slot now; these wait in the queues that the supervisor holds.
    answers = await asyncio.gather(*[node.ask() for _ in range(30)])
    assert all(status == 200 for status, _ in answers)
    assert await node.served() == 50
    assert [child.starts for child in node.supervisor.children] == [2, 2]


async def test_draining_finishes_what_is_in_flight_and_refuses_the_rest(config: GatewayConfig, tmp_path: Path) -> None:
    node = Node(config, tmp_path)
    await node.supervisor.start()
    pids = [child.pid for child in node.supervisor.children]
    slow = [asyncio.create_task(node.ask("/0.5")) for _ in range(6)]
    await asyncio.sleep(0.2)
    stop = asyncio.create_task(node.supervisor.stop(5.0))
    await asyncio.sleep(0.15)
    with pytest.raises(ConnectionRefusedError):
        await node.ask()
    assert [status for status, _ in await asyncio.gather(*slow)] == [200] * 6
    await stop
    assert not any(alive(pid) for pid in pids)
    node.run.remove()
    assert not node.run.path.exists()


async def test_readiness_says_which_part_is_missing(node: Node) -> None:
    status, body = await node.admin("/ready")
    details = json.loads(body)
    assert status == 200
    assert details["processes"] == {"edge-0": "ready", "edge-1": "ready"}
    assert details["listeners"] == node.supervisor.addresses
    assert details["draining"] is False
    await asyncio.sleep(0.1)
    stores = json.loads((await node.admin("/ready"))[1])["stores"]
    assert stores["redis"]["state"] == stores["postgres"]["state"] == "down"
    pid = node.supervisor.children[1].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not node.supervisor.children[1].ready)
    status, body = await node.admin("/ready")
    assert status == 503
    assert json.loads(body)["processes"] == {"edge-0": "ready", "edge-1": "starting"}
    assert (await node.admin("/health"))[0] == 200
    await until(lambda: node.supervisor.children[1].ready)
    assert (await node.admin("/ready"))[0] == 200


async def test_the_page_of_metrics_has_what_operators_watch(node: Node) -> None:
    await asyncio.sleep(0.2)
    page = (await node.admin("/metrics"))[1].decode()
    for name in (
        'tallygate_child_ready{child="edge-0",process="supervisor"} 1.0',
        'tallygate_store_up{process="supervisor",store="redis"} 0.0',
        "tallygate_stream_lag",
        "tallygate_event_loop_lag_seconds_bucket",
        "tallygate_process_resident_bytes",
        "tallygate_journal_",
    ):
        assert name in page


async def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = load(configuration(tmp_path, bind=f"127.0.0.1:{port}"), {})
        node = Node(config, tmp_path)
        with pytest.raises(StartFailed, match=rf"^cannot listen on 127.0.0.1:{port}: the port is in use$"):
            await node.supervisor.start()
        config = load(configuration(tmp_path, admin=f"127.0.0.1:{port}"), {})
        other = Node(config, tmp_path)
        with pytest.raises(StartFailed, match="the port is in use"):
            await other.supervisor.start()
    for each in (node, other):
        each.run.remove()


async def test_another_gateway_on_the_same_port_is_noticed(node: Node, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    config = load(configuration(tmp_path / "second", bind=node.supervisor.addresses[0]), {})
    second = Node(config, tmp_path / "second")
    with pytest.raises(StartFailed, match="the port is in use"):
        await second.supervisor.start()
    second.run.remove()
    assert (await node.ask())[0] == 200


async def test_a_process_that_cannot_serve_ends_the_start_with_its_reason(
    config: GatewayConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB", "refuses")
    node = Node(config, tmp_path)
    with pytest.raises(StartFailed, match=r"^the journal is unusable$"):
        await node.supervisor.start()
    assert not any(alive(child.pid) for child in node.supervisor.children)
    node.run.remove()


async def test_a_second_signal_does_not_wait(
    config: GatewayConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB", "deaf")
    node = Node(config, tmp_path)
    await node.supervisor.start()
    pids = [child.pid for child in node.supervisor.children]
    stop = asyncio.create_task(node.supervisor.stop(20.0))
    await asyncio.sleep(0.1)
    assert all(alive(pid) for pid in pids)
    node.supervisor.kill()
    before = time.monotonic()
    while any(alive(pid) for pid in pids):
        assert time.monotonic() - before < 5
        await asyncio.sleep(0.01)
    await asyncio.wait_for(stop, 5)
    node.run.remove()


_SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from gateway.node import processes
from gateway.config.composition import load
path = Path(sys.argv[1])
async def main():
    try:
        await processes.run_edge(load(path, {}), path, sys.argv[2:])
    except processes.StartFailed as failure:
        sys.exit(str(failure))
import logging
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout, force=True)
sys.stdout.reconfigure(line_buffering=True)
asyncio.run(main())
"""


def _start(path: Path) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-c", _SUPERVISOR, str(path), *STUB]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("serving on "):
            return process, line.split()[2].rstrip(",")
    raise AssertionError("it did not start")


def _pids(address: str) -> set[int]:
    host, _, port = address.rpartition(":")
    pids = set()
    for _ in range(40):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(b"GET /0 HTTP/1.1\r\nhost: x\r\n\r\n")
            answer = b""
            while part := connection.recv(4096):
                answer += part
            pids.add(int(answer.split()[-1]))
    return pids


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_everything_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    process, address = _start(configuration(tmp_path))
    pids = _pids(address)
    assert len(pids) == 2
    process.send_signal(number)
    assert process.wait(10) == 0
    assert process.stdout is not None
    process.stdout.close()
    assert not any(alive(pid) for pid in pids)


def test_edge_processes_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    process, address = _start(configuration(tmp_path))
    pids = _pids(address)
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    give_up = time.monotonic() + 10
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < give_up
        time.sleep(0.02)
    left = list(Path(RunDirectory().path.parent).glob(f"tallygate-run-{process.pid}-*"))
    assert not left  # the next run removes what that one could not


def test_one_process_for_each_core(tmp_path: Path) -> None:
    config = load(configuration(tmp_path), {})
    assert slots_of(config) == 2
    assert slots_of(config.model_copy(update={"processes": "auto"})) == len(os.sched_getaffinity(0))
