"""System: everything `tallygate up` runs, as real processes in a directory of the test's, to be killed at will."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import yaml

from tests.fixtures.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
KEY = "tg_test_DemoDemoDemoDemoDemoDemoDemoDemo1vk0aW"
KEY_SHA256 = "9c2fe6c606121ba1d4f45cdea9e4a40d35fc53fcc3564da49ec997b8c1faf15d"
START_SECONDS = 60.0

_MARKS = {"edge": "edge-process", "worker": " worker ", "valkey": "valkey-server", "postgres": "/bin/postgres -D"}


def configuration(gateway: int, admin: int, upstream: int) -> dict[str, Any]:
    """Two edge processes, small segments, and routes metered in every way there is."""
    metered = {"metering": {"meters": ["requests", "bytes_out"], "on_status": "200-399"}}
    tokens = {"name": "tokens", "from": "response_json", "path": "usage.total_tokens"}
    return {
        "listeners": [{"bind": f"127.0.0.1:{gateway}"}],
        "admin": {"bind": f"127.0.0.1:{admin}"},
        "processes": 2,
        "control": {"enabled": False},
        "upstreams": {"demo": {"targets": [f"http://127.0.0.1:{upstream}"]}},
        "plugins": [{"request_id": None}],
        "routes": [
            {
                "name": "ai",
                "match": {"path": "/ai/*"},
                "upstream": "demo",
                "plugins": [{"key_auth": None}, {"metering": {"meters": ["requests", tokens]}}],
            },
            {"name": "api", "upstream": "demo", "plugins": [{"key_auth": None}, metered]},
        ],
        "usage": {
            "journal": {"segment": "256KiB", "segment_age": "500ms", "budget": "256MiB"},
            "resend_after": "1s",
            "shards": 4,
        },
        "consumers": [{"name": "demo", "organization": "acme", "keys": [{"id": "demo", "sha256": KEY_SHA256}]}],
    }


class System:
    """Start it, send requests to `url`, kill parts of it, look at the books, stop it."""

    def __init__(self, directory: Path, program: Sequence[str] = ("-m", "gateway"), **environment: str) -> None:
        self.port, self.admin, upstream = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.directory = directory
        self.config = directory / "gateway.yaml"
        self.config.write_text(yaml.safe_dump(configuration(self.port, self.admin, upstream)))
        self._program = [sys.executable, *program]
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        self._process: asyncio.subprocess.Process | None = None
        self._log = (directory / "log").open("wb")

    async def start(self) -> None:
        """Everything up, and ready."""
        self._process = await asyncio.create_subprocess_exec(
            *self._program, "up", "--config", str(self.config), "--demo", "--forgetful",
            cwd=self.directory, env=self._environment, stdout=self._log, stderr=self._log,
        )  # fmt: skip
        async with asyncio.timeout(START_SECONDS):
            while not await asyncio.to_thread(self._ready):
                assert self._process.returncode is None, self.log()
                await asyncio.sleep(0.1)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/ready", timeout=1) as answer:
                return bool(json.load(answer)["ready"])
        except OSError:
            return False

    def log(self) -> str:
        """The last of what the processes said."""
        return (self.directory / "log").read_text(errors="replace")[-4000:]

    def pids(self, kind: str) -> list[int]:
        """Processes of a kind: edge, worker, valkey, postgres (its first process, which takes the others with it)."""
        assert self._process is not None
        try:
            below = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        found = []
        for process in below:
            try:
                if _MARKS[kind] in " ".join(process.cmdline()) + " ":
                    found.append(process.pid)
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return found

    def signal(self, kind: str, number: int) -> int:
        """Send a signal to the first process of a kind; how many got it."""
        for pid in self.pids(kind)[:1]:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return 0
            return 1
        return 0

    async def query(self, sql: str, *arguments: Any) -> list[Mapping[str, Any]]:
        """Ask the books; waits for PostgreSQL to be back if it is not there."""
        async with asyncio.timeout(60):
            while True:
                try:
                    url = next(self.directory.glob("var/postgres/url")).read_text().strip()
                    connection = await asyncpg.connect(url, timeout=5)
                    try:
                        return [dict(row) for row in await connection.fetch(sql, *arguments)]
                    finally:
                        await connection.close()
                except (OSError, StopIteration, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError):
                    await asyncio.sleep(0.3)

    async def tallygate(self, *arguments: str) -> tuple[int, str]:
        """Run a command; its exit code and what it printed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", *arguments, "--config", str(self.config),
            cwd=self.directory, env=self._environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        printed, _ = await process.communicate()
        return process.returncode or 0, printed.decode()

    async def stop(self, seconds: float = 40.0) -> int:
        """SIGTERM, and what it came to; kills what is left after so many seconds."""
        if self._process is None:
            return 0
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(seconds):
                return await self._process.wait()
        finally:
            if self._process.returncode is None:
                for kind in _MARKS:
                    for pid in self.pids(kind):
                        os.kill(pid, signal.SIGKILL)
                self._process.kill()
                await self._process.wait()
            self._log.close()
