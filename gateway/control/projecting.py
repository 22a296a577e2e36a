"""Projecting: everything that the edge has to know is written to Redis anew, from one snapshot of PostgreSQL.

Meanwhile nothing that is missing counts as absent. A million keys pass through a bounded amount of memory: they come
in the order of their SHA-256, which is the order of the hashes they go to.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import Final, NamedTuple

from gateway import projection
from gateway.clock import Clock
from gateway.control.records import Roles, key_record, organization_record
from gateway.postgres import Connection
from gateway.projection import Change
from gateway.stores.redis import Argument, Redis

_log: Final = logging.getLogger(__name__)

CHECKED_AT_ONCE: Final = 64
"""Hashes of keys, and of organizations, that are looked at in one step."""
_LARGEST_STEP: Final = 256 * 1024
"""Bytes written in one step, about: Redis does nothing else meanwhile."""
_MOST_HASHES: Final = 256
_STEP_SECONDS: Final = 10.0

_DAMAGED: Final = """
if redis.call('HGET', KEYS[1], 'complete') ~= '1' then return 1 end
for number = 2, #KEYS do
  local held = redis.call('HGET', KEYS[number], '#')
  if not held or redis.call('HLEN', KEYS[number]) ~= tonumber(held) + 1 then return 1 end
end
return 0
"""


class Place(NamedTuple):
    """How far publishing is: the generation, and the number of the last change in it."""

    generation: str
    sequence: int


class Lost(Exception):
    """Redis does not hold what was published."""


async def damaged(redis: Redis, first: int) -> bool:
    """Whether something is missing from the hashes with these numbers, or from the revocations."""
    numbers = range(first, first + CHECKED_AT_ONCE)
    hashes = [name(number) for name in (projection.keys_bucket, projection.organizations_bucket) for number in numbers]
    return bool(await redis.run(_DAMAGED, [projection.STATE, projection.REVOKED, *hashes]))


async def project(session: Connection, redis: Redis, clock: Clock, batch: int) -> Place:
    """Writes all of it, forgets the outbox that is part of it, and says where publishing goes on."""
    generation = clock.uuid7().hex()
    began = clock.monotonic()
    await redis.run(projection.BEGIN, [projection.STATE], [generation])
    async with session.atomic(isolation="repeatable_read"):
        keys = await _write_buckets(redis, generation, projection.keys_bucket, _keys(session, batch))
        organizations = _organizations(session, batch)
        await _write_buckets(redis, generation, projection.organizations_bucket, organizations)
        await _write_revocations(session, redis, generation)
        change = projection.encode(Change(sequence=1, kind="all"))
        arguments: list[Argument] = [generation, projection.LONGEST_STREAM, change]
        if not await redis.run(projection.FINISH, [projection.STATE, projection.CHANGES], arguments):
            raise Lost
        await session.run("forget_outbox")
        await session.run("keep_publication", generation, 1)
    _log.info("wrote %d keys to Redis anew in %.1f s", keys, clock.monotonic() - began)
    return Place(generation, 1)


async def _keys(session: Connection, batch: int) -> AsyncIterator[list[tuple[bytes, bytes]]]:
    """SHA-256 and record of every key."""
    async for rows in session.batches("all_secrets", size=batch):
        names = list({row["organization"] for row in rows})
        roles = Roles.of(await session.rows("roles_of_organizations", names))
        yield [(row["digest"], projection.encode(key_record(row, roles))) for row in rows]


async def _organizations(session: Connection, batch: int) -> AsyncIterator[list[tuple[bytes, bytes]]]:
    async for rows in session.batches("all_organizations", size=batch):
        roles = Roles.of(await session.rows("roles_of_organizations", [row["name"] for row in rows]))
        yield [
            (projection.name_digest(row["name"]), projection.encode(organization_record(row, roles))) for row in rows
        ]


async def _write_revocations(session: Connection, redis: Redis, generation: str) -> None:
    fields: list[Argument] = []
    async for rows in session.batches("revocations", size=1000):
        for row in rows:
            fields += (row["token"], row["expires_at"])
    await _replace(redis, generation, [projection.REVOKED], [len(fields) // 2, *fields])


async def _write_buckets(
    redis: Redis, generation: str, name: Callable[[int], str], found: AsyncIterator[list[tuple[bytes, bytes]]]
) -> int:
    """Replaces all hashes by what is found, in the order of its digests. Returns how many there are."""
    hashes: list[str] = []
    arguments: list[Argument] = []
    fields: list[Argument] = []
    bucket, size, count = 0, 0, 0

    async def turn_to(following: int) -> None:
        nonlocal bucket, size, fields
        while bucket < following:
            hashes.append(name(bucket))
            arguments.extend((len(fields) // 2, *fields))
            fields = []
            bucket += 1
            if size > _LARGEST_STEP or len(hashes) == _MOST_HASHES or bucket == projection.BUCKETS:
                await _replace(redis, generation, hashes, arguments)
                hashes.clear()
                arguments.clear()
                size = 0

    async for records in found:
        for digest, record in records:
            await turn_to(projection.bucket_of(digest))
            fields += (digest, record)
            size += len(record) + 32
            count += 1
    await turn_to(projection.BUCKETS)
    return count


async def _replace(redis: Redis, generation: str, hashes: list[str], arguments: list[Argument]) -> None:
    keys = [projection.STATE, *hashes]
    if not await redis.run(projection.REPLACE, keys, [generation, *arguments], deadline=_STEP_SECONDS):
        raise Lost
