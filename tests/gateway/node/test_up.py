"""Up: real stores, a demo and everything else come with one command and go with one Ctrl-C; the edge is a stand-in."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.fixtures.ports import free_port

STUB = (sys.executable, "-m", "tests.gateway.edge_stub")

_UP = """
import asyncio, sys
from pathlib import Path
import asyncpg, uvloop
from gateway.config.composition import load
from gateway.node.processes import StartFailed
from gateway.node.up import run_up

async def migrate(url):
    connection = await asyncpg.connect(url)
    print("migrated PostgreSQL", connection.get_server_version().major, flush=True)
    await connection.close()
path = Path(sys.argv[1])
work = run_up(
    load(path, {}), path, demo=sys.argv[2] == "demo", migrate=migrate, program=sys.argv[3:],
    announce=lambda text: print(text, "\\nEND", flush=True),
)
try:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)
except StartFailed as failure:
    sys.exit(str(failure))
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """One that PostgreSQL's account may pass through, unlike pytest's."""
    path = Path(tempfile.mkdtemp(prefix="tallygate-up-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def configuration(directory: Path, upstream: str = "demo") -> Path:
    path = directory / "gateway.yaml"
    path.write_text(
        textwrap.dedent(f"""
            listeners: [{{bind: "127.0.0.1:0"}}]
            admin: {{bind: "127.0.0.1:0"}}
            processes: 2
            stores: {{directory: {directory / "var"}}}
            upstreams: {{{upstream}: {{targets: ["http://127.0.0.1:{free_port()}"]}}}}
            routes: [{{name: all, upstream: {upstream}, match: {{path: /*}}}}]
            usage: {{journal: {{directory: {directory / "journal"}, segment: 64KiB}}}}
            billing: {{workers: 2}}
            control: {{bind: "127.0.0.1:0"}}
            consumers:
              - name: demo
                organization: acme
                keys: [{{id: demo, sha256: 9c2fe6c606121ba1d4f45cdea9e4a40d35fc53fcc3564da49ec997b8c1faf15d}}]
            """)
    )
    return path


class Ups:
    """Starts everything, any number of times."""

    def __init__(self) -> None:
        self._launched: list[subprocess.Popen[str]] = []

    def launch(self, path: Path) -> subprocess.Popen[str]:
        """Not waited for."""
        command = [sys.executable, "-c", _UP, str(path), "demo", *STUB]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._launched.append(process)
        return process

    def start(self, path: Path) -> tuple[subprocess.Popen[str], list[str]]:
        """What it said until it was up, or had ended."""
        process = self.launch(path)
        assert process.stdout is not None
        said = iter(process.stdout.readline, "")
        return process, [line.rstrip() for line in itertools.takewhile(lambda line: not line.startswith("END"), said)]

    def close(self) -> None:
        """Kills what a failed test left running."""
        for process in self._launched:
            if process.poll() is None:
                family = psutil.Process(process.pid).children(recursive=True)
                for each in (process, *family):
                    each.kill()
                end(process)


@pytest.fixture
def ups() -> Iterator[Ups]:
    made = Ups()
    yield made
    made.close()


def end(process: subprocess.Popen[str]) -> str:
    process.wait(30)
    assert process.stdout is not None
    assert process.stderr is not None
    errors = process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    return errors


def gone(processes: list[psutil.Process], seconds: float = 15.0) -> bool:
    give_up = time.monotonic() + seconds
    while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes):
        if time.monotonic() > give_up:
            return False
        time.sleep(0.05)
    return True


def test_everything_comes_up_and_goes_down(directory: Path, ups: Ups) -> None:
    path = configuration(directory)
    process, lines = ups.start(path)
    text = "\n".join(lines)
    assert "migrated PostgreSQL 18" in text
    assert "Tallygate is up: 2 edge and 2 billing processes." in text
    assert "bootstrap token in var/control/token" in text
    assert "curl -H 'x-api-key: tg_test_" in text
    assert f"cd {os.getcwd()} && .venv/bin/tallygate usage acme --config {path}" in text
    family = psutil.Process(process.pid).children(recursive=True)
    names = [" ".join(child.cmdline()) for child in family]
    services = ("worker --snapshot-fd", "control --snapshot-fd", "edge-process")
    for part in ("valkey-server", "bin/postgres", "demo --listen-fd", *services):
        assert any(part in name for name in names), part
    process.send_signal(signal.SIGINT)
    assert end(process) == ""
    assert process.returncode == 0
    assert gone(family, 1.0)


def test_the_database_is_made_once_and_nothing_outlives_a_kill(directory: Path, ups: Ups) -> None:
    path = configuration(directory)
    process, _ = ups.start(path)
    (made,) = (directory / "var").rglob("cluster/PG_VERSION")
    first = made.stat()
    process.send_signal(signal.SIGINT)
    end(process)

    process, _ = ups.start(path)
    assert (made.stat().st_ino, made.stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    end(process)
    assert gone(family)

    process, _ = ups.start(path)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    end(process)


def test_a_signal_while_it_starts(directory: Path, ups: Ups) -> None:
    process = ups.launch(configuration(directory))
    give_up = time.monotonic() + 20
    while not (directory / "var" / "valkey" / "lock").exists():
        assert time.monotonic() < give_up
        time.sleep(0.01)
    time.sleep(0.2)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    end(process)
    assert process.returncode == 0
    assert gone(family)


def test_a_demo_needs_an_upstream_for_it(directory: Path, ups: Ups) -> None:
    process, _ = ups.start(configuration(directory, upstream="other"))
    assert "no upstream `demo`" in end(process)
    assert process.returncode == 1
    assert not os.path.exists(directory / "var")


def test_a_demo_whose_port_somebody_else_has_does_not_start(directory: Path, ups: Ups) -> None:
    path = configuration(directory)
    port = int(path.read_text().partition('targets: ["http://127.0.0.1:')[2].partition('"')[0])
    with socket.create_server(("127.0.0.1", port)):
        process, lines = ups.start(path)
        assert end(process).startswith(
            f"the demo cannot listen on http://127.0.0.1:{port}, the first target of `demo`: Address already in use"
        )
    assert (process.returncode, lines) == (1, [])


def test_a_demo_that_is_not_installed_says_where_it_is(directory: Path) -> None:
    """As for `tallygate up --demo` outside the checkout: the package is in there alone."""
    code = f"import gateway.node.up as up, pathlib; up._CHECKOUT = pathlib.Path({str(directory)!r})\n" + _UP
    command = [sys.executable, "-c", code, str(configuration(directory)), "demo", *STUB]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "the demo is in the source of Tallygate and not installed with it: run `bin/up` there\n"


def test_a_certificate_of_the_control_plane_that_cannot_be_used(directory: Path, ups: Ups) -> None:
    """It is one line, before anything is made or started."""
    path = configuration(directory)
    missing = f"tls: {{certificate: {directory}/none.pem, key: {directory}/none.key}}"
    path.write_text(
        path.read_text().replace('control: {bind: "127.0.0.1:0"', f'control: {{bind: "127.0.0.1:0", {missing}')
    )
    process, lines = ups.start(path)
    errors = end(process)
    assert errors.startswith("the control plane cannot serve HTTPS: ")
    assert (process.returncode, lines, errors.count("\n")) == (1, [], 1)
    assert not os.path.exists(directory / "var")
