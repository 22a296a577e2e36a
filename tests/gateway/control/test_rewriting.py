"""Rewriting many keys at once keeps nobody waiting whose key is revoked meanwhile, and brings nothing back."""

from __future__ import annotations

from typing import Any

import pytest

from gateway import projection
from gateway.control.publisher import Publisher
from gateway.projection import KeyRecord
from gateway.stores.redis import Redis
from tests.fixtures.control import Client
from tests.fixtures.postgres import fetch
from tests.fixtures.published import Edge, is_record, publishing

HOME = "/v1/organizations/acme"
KEYS = 12


@pytest.fixture
async def secrets(acme: Client) -> list[str]:
    await acme.make("/v1/roles", name="guest", permissions=["shop:look"])
    await acme.make(f"{HOME}/users", name="bob")
    made = [await acme.make(f"{HOME}/keys", name=f"k{number}", roles=["reader", "guest"]) for number in range(KEYS)]
    return [each["secret"] for each in made]


async def revoked(edge: Edge, secret: str) -> bool:
    found = await edge.key(secret)
    return isinstance(found, KeyRecord) and found.revoked_at is not None


@pytest.mark.parametrize(
    "widely",
    [
        ("/v1/roles/guest", {"permissions": ["shop:buy"]}),
        (f"{HOME}/roles/reader", {"permissions": ["books:*"]}),
        (HOME, {"title": "Acme"}),
    ],
)
async def test_a_revocation_passes_and_stays(
    acme: Client,
    secrets: list[str],
    database_url: str,
    redis: Redis,
    edge: Edge,
    monkeypatch: pytest.MonkeyPatch,
    widely: tuple[str, dict[str, Any]],
) -> None:
    """Revoked after the first batch: at the edge before the third is written, whichever batch the key is in."""
    batches: list[int] = []
    seen_after: list[int] = []
    write = Publisher._write_keys

    async def observed(self: Publisher, session: Any, found: list[bytes], *, told: bool) -> None:
        await write(self, session, found, told=told)
        if told:
            return
        batches.append(len(found))
        if len(batches) == 1:
            for number in range(KEYS):
                if number % 2:
                    await acme.ask("POST", f"{HOME}/keys/k{number}/revoke")
        elif not seen_after and all([await revoked(edge, secrets[number]) for number in range(1, KEYS, 2)]):
            seen_after.append(len(batches))

    async with publishing(database_url, redis, batch=3):
        await edge.until(lambda: edge.key(secrets[-1]), is_record)
        monkeypatch.setattr(Publisher, "_write_keys", observed)
        path, members = widely
        assert (await acme.change(path, **members)).status == 200
        await edge.until(lambda: fetch(database_url, "select count(*) from outbox"), lambda found: found == [(0,)])
        assert seen_after == [2]
        assert batches == [3] * (KEYS // 3)
        assert [await revoked(edge, secret) for secret in secrets] == [False, True] * (KEYS // 2)
    sequences = [change.sequence for change in await edge.changes()]
    assert sequences == list(range(1, len(sequences) + 1))


async def test_rewritings_let_each_other_pass(
    acme: Client, secrets: list[str], database_url: str, redis: Redis, edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change that concerns many keys, in the midst of another one, of another one, and so on: none is forgotten."""
    write, times = Publisher._write_keys, 0

    async def observed(self: Publisher, session: Any, found: list[bytes], *, told: bool) -> None:
        nonlocal times
        await write(self, session, found, told=told)
        if not told and (times := times + 1) <= 8:
            await acme.change(f"{HOME}/roles/reader", permissions=[f"books:read{times}"])

    async with publishing(database_url, redis, batch=3):
        await edge.until(lambda: edge.key(secrets[-1]), is_record)
        monkeypatch.setattr(Publisher, "_write_keys", observed)
        await acme.change("/v1/roles/guest", permissions=["shop:buy"])
        await edge.until(lambda: fetch(database_url, "select count(*) from outbox"), lambda found: found == [(0,)])
        for secret in secrets:
            found = await edge.key(secret)
            assert isinstance(found, KeyRecord)
            assert found.permissions == ("books:read8", "shop:buy")


async def test_cut_off_in_the_midst_it_is_all_done_again(
    acme: Client, secrets: list[str], database_url: str, redis: Redis, edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was let pass is part of what begins again."""
    write, times = Publisher._write_keys, 0

    async def failing(self: Publisher, session: Any, found: list[bytes], *, told: bool) -> None:
        nonlocal times
        await write(self, session, found, told=told)
        times += 1
        if times == 1:
            await acme.ask("POST", f"{HOME}/keys/k0/revoke")
        if times == 4:
            raise ConnectionResetError("the machine is gone")

    async with publishing(database_url, redis, batch=3):
        await edge.until(lambda: edge.key(secrets[-1]), is_record)
        generation = (await redis.hash_read(projection.STATE))["generation"]
        monkeypatch.setattr(Publisher, "_write_keys", failing)
        await acme.change(f"{HOME}/roles/reader", permissions=["books:*"])
        await edge.until(lambda: fetch(database_url, "select count(*) from outbox"), lambda found: found == [(0,)])
        assert times > 4 + KEYS // 3
        assert [await revoked(edge, secret) for secret in secrets] == [True] + [False] * (KEYS - 1)
        assert (await redis.hash_read(projection.STATE))["generation"] == generation
