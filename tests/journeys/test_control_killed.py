"""Two control planes on the same stores, killed again and again while keys are made, rotated and revoked and Redis is
emptied: in the end Redis says what PostgreSQL says, and no answer that was given is untrue."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway import projection
from gateway.projection import KeyRecord
from gateway.stores.redis import Redis
from tests.fixtures.configuration import HEAD, ROUTES
from tests.fixtures.ports import free_port
from tests.fixtures.postgres import database_url, empty_database, fetch, postgres_server
from tests.fixtures.published import Edge
from tests.fixtures.valkey import ValkeyServer, redis, valkey, valkey_process

__all__ = ["database_url", "empty_database", "postgres_server", "redis", "valkey", "valkey_process"]

ROOT = Path(__file__).parents[2]
TOKEN = "bootstrap-token-of-the-tests"
SECONDS = 12.0
KEYS = "/v1/organizations/acme/keys"


class Planes:
    """Two processes; whoever asks one that is dead asks again, with the same idempotency key."""

    def __init__(self, directory: Path, redis: str, postgres: str) -> None:
        self._stores = f'stores: {{redis: "{redis}", postgres: "{postgres}"}}\n'
        self._directory = directory
        self._ports = [free_port(), free_port()]
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._session = aiohttp.ClientSession(headers={"authorization": f"Bearer {TOKEN}"})

    def start(self, number: int) -> None:
        config = self._directory / f"{number}.yaml"
        config.write_text(f'{HEAD}{ROUTES}{self._stores}control: {{bind: "127.0.0.1:{self._ports[number]}"}}\n')
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TALLYGATE_CONTROL_TOKEN": TOKEN}
        with (self._directory / f"{number}.log").open("ab") as log:
            command = [sys.executable, "-m", "gateway", "control", "--config", str(config)]
            self._running[number] = subprocess.Popen(
                command, cwd=self._directory, env=environment, stdout=log, stderr=log
            )

    def kill(self, number: int) -> None:
        self._running[number].kill()
        _ = self._running[number].wait()
        self.start(number)

    async def stop(self) -> str:
        """What they have logged."""
        await self._session.close()
        for process in self._running.values():
            process.terminate()
            _ = await asyncio.to_thread(process.wait, 10)
        return "".join(file.read_text() for file in self._directory.glob("*.log"))

    async def ask(self, method: str, path: str, body: Any = None, **fields: str) -> tuple[int, Any, str]:
        """Status, document and version."""
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        if method == "PATCH":
            headers["content-type"] = "application/merge-patch+json"
        while True:
            url = f"http://127.0.0.1:{random.choice(self._ports)}{path}"
            try:
                async with self._session.request(method, url, json=body, headers=headers) as answer:
                    document = await answer.json(content_type=None)
                    if answer.status != 503:
                        return answer.status, document, answer.headers.get("etag", "")
            except (aiohttp.ClientError, OSError):
                pass  # it is being killed
            await asyncio.sleep(0.05)


@pytest.fixture
async def planes(tmp_path: Path, valkey: ValkeyServer, database_url: str) -> AsyncIterator[Planes]:
    planes = Planes(tmp_path, valkey.url, database_url)
    for number in (0, 1):
        planes.start(number)
    yield planes
    assert '"level":"error"' not in await planes.stop()


async def test_killed_in_the_midst_of_everything(planes: Planes, redis: Redis, database_url: str) -> None:
    _ = await planes.ask("POST", "/v1/organizations", {"name": "acme"})
    _ = await planes.ask("POST", "/v1/organizations/acme/roles", {"name": "reader", "permissions": ["books:read"]})
    ends = time.monotonic() + SECONDS
    current: dict[str, str | None] = {}
    """The secret that each key has now; None: nobody has read it, or it is revoked."""

    async def make_keys(worker: int) -> None:
        number = 0
        while time.monotonic() < ends:
            number += 1
            name = f"k{worker}-{number}"
            told = await planes.ask("POST", KEYS, {"name": name, "roles": ["reader"]}, idempotency_key=name)
            assert told[0] == 201, told
            current[name] = told[1]["secret"]
            if number % 3 == 0:
                told = await planes.ask(
                    "POST", f"{KEYS}/{name}/rotate", {"grace_seconds": 0}, idempotency_key=f"r{name}"
                )
                assert told[0] == 200, told
                current[name] = told[1]["secret"]
            if number % 4 == 0:
                assert (await planes.ask("POST", f"{KEYS}/{name}/revoke"))[0] == 200
                current[name] = None

    async def change_what_they_may() -> None:
        number = 0
        while time.monotonic() < ends:
            number += 1
            path = "/v1/organizations/acme/roles/reader"
            _, _, version = await planes.ask("GET", path)
            _ = await planes.ask("PATCH", path, {"permissions": [f"books:read{number}"]}, if_match=version)
            await asyncio.sleep(0.2)

    async def kill() -> None:
        number = 0
        while time.monotonic() < ends:
            await asyncio.sleep(random.uniform(0.3, 2.5))
            planes.kill(number % 2)
            number += 1
            if number % 4 == 0:
                await redis.run("return redis.call('FLUSHALL')", [projection.STATE])

    await asyncio.gather(*(make_keys(worker) for worker in range(3)), change_what_they_may(), kill())
    edge = Edge(redis)

    async def settled() -> bool:
        """Nothing is left to be published, and Redis holds as many secrets as there are."""
        held = "select count(*) from api_secret where expires_at is null or expires_at > now()"
        waiting = "select count(*) from outbox"
        ((wanted, left),) = await fetch(database_url, f"select ({held}), ({waiting})")
        return left == 0 and await published(redis) == wanted

    await edge.until(settled, bool, 20)
    _, role, _ = await planes.ask("GET", "/v1/organizations/acme/roles/reader")
    assert len(current) > 20
    for name, secret in current.items():
        if secret is not None:
            found = await edge.key(secret)
            assert isinstance(found, KeyRecord), name
            assert (found.id, found.revoked_at) == (name, None)
            assert list(found.permissions) == role["permissions"]
    once = "select count(*) = count(distinct (organization, key)) from api_secret where expires_at is null"
    assert await fetch(database_url, once) == [(True,)]


async def published(redis: Redis) -> int:
    """How many secrets Redis holds, each hash as many as it says; less than none while they are not all there."""
    script = """
    local sum = redis.call('HGET', 'tallygate:{directory}:state', 'complete') == '1' and 0 or -1e9
    for _, key in ipairs(KEYS) do
      local held = tonumber(redis.call('HGET', key, '#') or -1)
      if redis.call('HLEN', key) ~= held + 1 then return -1 end
      sum = sum + held
    end
    return sum
    """
    return int(await redis.run(script, [projection.keys_bucket(number) for number in range(projection.BUCKETS)]))
