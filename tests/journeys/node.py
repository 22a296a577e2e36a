"""Node: `tallygate edge` and `tallygate worker` as processes of their own, between the stores and upstream of a test.

Unlike `System` it leaves each of them to the test: to be stopped, continued, ended and started again one by one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import psutil
import yaml

from gateway.metering.segment import SegmentReader
from plugins.metering import MOST_METERS
from tests.fixtures.ports import free_port
from tests.fixtures.postgres import fetch
from tests.journeys.line import Answer, Line
from tests.journeys.system import KEY_SHA256, ROOT, START_SECONDS

BOOKED = """select event_id::text, outcome, status, route, quantities, segment, number
            from usage_event where kind = 'usage' order by segment, number"""
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


class Row(NamedTuple):
    """A booked event."""

    id: str
    outcome: str
    status: int
    route: str
    quantities: dict[str, int]
    segment: str
    number: int


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 15.0, what: str = "") -> None:
    """Wait until something is so; fails when it takes longer."""
    give_up = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < give_up, f"not within {seconds:g} s: {what or condition.__name__}"
        await asyncio.sleep(0.05)


TOKENS = {"name": "tokens", "from": "response_json", "path": "usage.total_tokens", "estimate": 3}
UNITS = {"from": "response_header", "header": "x-units"}


def metered(*meters: str | dict[str, Any]) -> list[dict[str, Any]]:
    """The plugins of a route whose users are known and pay."""
    return [{"key_auth": None}, {"metering": {"meters": list(meters)}}]


def configuration(directory: Path, redis: str, postgres: str, upstream: int) -> dict[str, Any]:
    """One edge process; routes that are metered by what leaves or by what the answer says, one that is not metered.

    A usage event of the route `bulky` is nearly as large as one may be.
    """
    told = metered("requests", TOKENS)
    bulky = metered(*[UNITS | {"name": f"{'unit' * 14}_{number}"} for number in range(MOST_METERS)])
    return {
        "listeners": [{"bind": f"127.0.0.1:{free_port()}"}],
        "admin": {"bind": f"127.0.0.1:{free_port()}"},
        "processes": 1,
        "drain_timeout": "5s",
        "stores": {"redis": redis, "postgres": postgres},
        "upstreams": {"behind": {"targets": [f"http://127.0.0.1:{upstream}"]}},
        "plugins": [{"request_id": None}],
        "routes": [
            {"name": "open", "match": {"path": "/open/*"}, "upstream": "behind"},
            {"name": "ai", "match": {"path": "/ai/*"}, "upstream": "behind", "plugins": told},
            {"name": "patient", "match": {"path": "/patient/*"}, "upstream": "behind", "plugins": told}
            | {"on_disconnect": "drain"},
            {"name": "bulky", "match": {"path": "/bulky/*"}, "upstream": "behind", "plugins": bulky},
            {"name": "api", "upstream": "behind", "plugins": metered("requests", "bytes_out")},
        ],
        "usage": {
            "journal": {
                "directory": str(directory / "journal"),
                "segment": "256KiB",
                "segment_age": "500ms",
                "budget": "256MiB",
            },
            "resend_after": "1s",
            "shards": 2,
        },
        "billing": {"statement_timeout": "2s"},
        "consumers": [{"name": "demo", "organization": "acme", "keys": [{"id": "demo", "sha256": KEY_SHA256}]}],
    }


class Node:
    """Change `config` and `program` before the start; `edge` and `worker` are the processes that run now."""

    def __init__(self, directory: Path, redis: str, postgres: str, upstream: int) -> None:
        self.directory = directory
        self.config = configuration(directory, redis, postgres, upstream)
        self.journal = directory / "journal"
        self.program: Sequence[str] = ("-m", "gateway")
        self.edge: asyncio.subprocess.Process | None = None
        self.worker: asyncio.subprocess.Process | None = None
        self._postgres = postgres
        self._lines: list[Line] = []

    @property
    def port(self) -> int:
        return int(self.config["listeners"][0]["bind"].rpartition(":")[2])

    async def line(self) -> Line:
        """A new connection of a client, which is closed with the node."""
        line = await Line.open(self.port)
        self._lines.append(line)
        return line

    async def refuses(self) -> bool:
        """Whether a new connection is refused."""
        try:
            line = await Line.open(self.port)
        except ConnectionError:
            return True
        line.leave()
        return False

    # Processes

    async def start(self, *, worker: bool = True) -> None:
        """The edge, ready, and a worker unless told not to."""
        if worker:
            await self.start_worker()
        await self.start_edge()

    async def start_worker(self) -> None:
        self.worker = await self._launch("worker")

    async def start_edge(self, *before: str) -> None:
        """`before` is a program that starts it."""
        self.edge = await self._launch("edge", before)

        async def ready() -> bool:
            assert self.edge is not None
            assert self.edge.returncode is None, self.log("edge")
            try:
                return bool((await self.ready())["ready"])
            except OSError:
                return False

        await until(ready, START_SECONDS)

    async def run_edge(self, *before: str) -> tuple[int, str]:
        """An edge that ends by itself; its status and what it said."""
        (self.directory / "edge.log").unlink(missing_ok=True)
        self.edge = await self._launch("edge", before)
        status = await asyncio.wait_for(self.edge.wait(), START_SECONDS)
        return status, self.log("edge")

    async def _launch(self, command: str, before: Sequence[str] = ()) -> asyncio.subprocess.Process:
        self.write()
        with (self.directory / f"{command}.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *before, sys.executable, *self.program, command, "--config", "gateway.yaml",
                cwd=self.directory, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=log, stderr=log,
            )  # fmt: skip

    def edge_pids(self) -> list[int]:
        """The edge processes themselves, without their supervisor."""
        assert self.edge is not None
        return [child.pid for child in psutil.Process(self.edge.pid).children()]

    async def end_edge(self, seconds: float) -> int:
        """SIGTERM to the supervisor; its exit status, if it ends within so many seconds."""
        assert self.edge is not None
        self.edge.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.edge.wait(), seconds)

    async def close(self) -> None:
        """Whatever still runs is killed."""
        for line in self._lines:
            line.leave()
        for process in (self.edge, self.worker):
            if process is not None and process.returncode is None:
                children = psutil.Process(process.pid).children(recursive=True)
                process.kill()
                for child in children:
                    if child.is_running():
                        child.kill()
                await process.wait()

    # What it says

    def log(self, command: str) -> str:
        """What the processes said."""
        return (self.directory / f"{command}.log").read_text(errors="replace")

    async def admin(self, path: str, method: str = "GET") -> Answer:
        line = await Line.open(int(self.config["admin"]["bind"].rpartition(":")[2]), START_SECONDS)
        try:
            began = time.monotonic()
            return await line.answer(line.send(path, method), began)
        finally:
            line.leave()

    def write(self) -> None:
        """The file as `config` has it now."""
        (self.directory / "gateway.yaml").write_text(yaml.safe_dump(self.config))

    async def reload(self) -> tuple[int, dict[str, Any]]:
        """`POST /reload` with the file as `config` has it now: the status, and what the answer says."""
        self.write()
        answer = await self.admin("/reload", "POST")
        return answer.status, json.loads(answer.body)

    async def ready(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((await self.admin("/ready")).body)
        return document

    async def metric(self, name: str, labels: str = "") -> float:
        """The sum of a metric over all label values, or over those that have `labels` in them."""
        page = (await self.admin("/metrics")).body.decode()
        return sum(float(value) for found, of, value in _SAMPLE.findall(page) if found == name and labels in of)

    async def has_said(self, words: str) -> bool:
        """Whether the edge has logged this."""
        return words in self.log("edge")

    async def has_settled(self) -> bool:
        """Whether all that is closed is accounted for and deleted: what is left is what is open, without a record."""
        try:
            empty = all(SegmentReader(path).first() is None for path in self.segments())
        except FileNotFoundError:  # deleted just now
            return False
        return empty and await self.metric("tallygate_stream_lag") == 0

    def segments(self) -> list[Path]:
        return sorted(self.journal.glob("*/*.segment"))

    def journal_bytes(self) -> int:
        """What the segments take."""
        size = 0
        for path in self.segments():
            with contextlib.suppress(FileNotFoundError):
                size += path.stat().st_size
        return size

    def left_in_journal(self) -> list[str]:
        """What is in the journal directory beside the node's name and the lock of its budget."""
        return sorted(path.name for path in self.journal.iterdir() if path.name not in ("node", "budget.lock"))

    # The books

    async def books(self) -> list[Row]:
        async with asyncio.timeout(15):
            rows = await fetch(self._postgres, BOOKED)
        return [Row(*row[:4], json.loads(str(row[4])), *row[5:]) for row in rows]  # type: ignore[arg-type]

    async def booked(self, served: Iterable[str], seconds: float = 20.0) -> dict[str, Row]:
        """The books, once all of these are in them; each event is there once."""
        wanted = {str(UUID(name)) for name in served}
        give_up = time.monotonic() + seconds
        while missing := wanted - {row.id for row in await self.books()}:
            assert time.monotonic() < give_up, (
                f"{len(missing)} of {len(wanted)} are not booked\n{self.log('edge')[-3000:]}"
            )
            await asyncio.sleep(0.1)
        rows = await self.books()
        assert len({row.id for row in rows}) == len(rows)
        return {row.id: row for row in rows}

    async def reconcile(self) -> tuple[int, str]:
        """`tallygate reconcile`: its status and what it printed."""
        return await self.tallygate("reconcile")

    async def tallygate(self, *command: str) -> tuple[int, str]:
        """A command about the file as it stands: its status and what it printed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", *command, "--config", "gateway.yaml",
            cwd=self.directory, env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        printed, _ = await asyncio.wait_for(process.communicate(), 30)
        return process.returncode or 0, printed.decode()
