"""Projecting: everything that the edge has to know is written to Redis anew, from one snapshot of PostgreSQL.

Meanwhile nothing that is missing counts as absent. A million keys pass through a bounded amount of memory: they come
in the order of their SHA-256, which is the order of the hashes they go to.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import Final, NamedTuple, TypeAlias

from gateway import projection
from gateway.clock import Clock
from gateway.control.records import Roles, key_record, organization_record
from gateway.postgres import Connection, Row
from gateway.projection import Change
from gateway.stores.redis import Argument, Redis

_log: Final = logging.getLogger(__name__)

CHECKED_AT_ONCE: Final = 64
"""Hashes of keys, and of organizations, that are looked at in one step."""
_LARGEST_STEP: Final = 256 * 1024
"""Bytes written in one step, about: Redis does nothing else meanwhile."""
_MOST_HASHES: Final = 256
_STEP_SECONDS: Final = 10.0

MOST_REPAIRED: Final = 8
"""Hashes that are repaired one by one; where more are damaged, all is written anew."""

_DAMAGED: Final = """
local found = {}
for number, key in ipairs(KEYS) do
  local held = redis.call('HGET', key, '#')
  if not held or redis.call('HLEN', key) ~= tonumber(held) + 1 then found[#found + 1] = number end
end
return found
"""


Records: TypeAlias = list[tuple[bytes, bytes]]
"""SHA-256s and what is said of them."""


class Place(NamedTuple):
    """How far publishing is: the generation, and the number of the last change in it."""

    generation: str
    sequence: int


class Lost(Exception):
    """Redis does not hold what was published."""


async def repair(session: Connection, redis: Redis, place: Place, first: int) -> int:
    """Writes anew what is damaged of the hashes from this number on, and of the revocations: nothing else is missing
    meanwhile, and nothing has changed that the edge knows. Returns how many these were. Raises Lost.
    """
    numbers = range(first, first + CHECKED_AT_ONCE)
    hashes = [name(number) for name in (projection.keys_bucket, projection.organizations_bucket) for number in numbers]
    damaged = [number - 1 for number in await redis.run(_DAMAGED, [*hashes, projection.REVOKED])]
    if len(damaged) > MOST_REPAIRED:
        raise Lost
    for at in damaged:
        if at == len(hashes):
            key, fields = projection.REVOKED, await _revocations(session)
        elif at < CHECKED_AT_ONCE:
            key, fields = hashes[at], await _keys_between(session, numbers[at])
        else:
            key, fields = hashes[at], await _organizations_between(session, numbers[at - CHECKED_AT_ONCE])
        arguments: list[Argument] = [place.generation, place.sequence, *fields]
        if not await redis.run(projection.REPAIR, [projection.STATE, key], arguments, deadline=_STEP_SECONDS):
            raise Lost
        _log.warning("%s in Redis had lost something and was written anew: is maxmemory-policy noeviction?", key)
    return len(damaged)


async def project(session: Connection, redis: Redis, clock: Clock, batch: int) -> Place:
    """Writes all of it, forgets the outbox that is part of it, and says where publishing goes on."""
    generation = clock.uuid7().hex()
    began = clock.monotonic()
    async with session.atomic(isolation="repeatable_read"):
        await session.rows("publication")  # whose connection is gone, and with it the right to publish, goes no further
        await redis.run(projection.BEGIN, [projection.STATE], [generation])
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


async def _keys(session: Connection, batch: int) -> AsyncIterator[Records]:
    """SHA-256 and record of every key."""
    async for rows in session.batches("all_secrets", size=batch):
        yield await _key_records(session, rows)


async def _key_records(session: Connection, rows: list[Row]) -> Records:
    names = list({row["organization"] for row in rows})
    roles = Roles.of(await session.rows("roles_of_organizations", names))
    return [(row["digest"], projection.encode(key_record(row, roles))) for row in rows]


async def _organizations(session: Connection, batch: int) -> AsyncIterator[Records]:
    async for rows in session.batches("all_organizations", size=batch):
        yield await _organization_records(session, rows)


async def _organization_records(session: Connection, rows: list[Row]) -> Records:
    roles = Roles.of(await session.rows("roles_of_organizations", [row["name"] for row in rows]))
    return [(projection.name_digest(row["name"]), projection.encode(organization_record(row, roles))) for row in rows]


async def _keys_between(session: Connection, number: int) -> list[Argument]:
    rows = await session.rows("secrets_between", *projection.bounds_of(number))
    return [each for record in await _key_records(session, rows) for each in record]


async def _organizations_between(session: Connection, number: int) -> list[Argument]:
    rows = await session.rows("organizations_between", *projection.bounds_of(number))
    return [each for record in await _organization_records(session, rows) for each in record]


async def _revocations(session: Connection) -> list[Argument]:
    """Fields and values, in turn; there is a bounded number of them."""
    return [each for row in await session.rows("revocations") for each in (row["token"], row["expires_at"])]


async def _write_revocations(session: Connection, redis: Redis, generation: str) -> None:
    fields = await _revocations(session)
    await _replace(redis, generation, [projection.REVOKED], [len(fields) // 2, *fields])


async def _write_buckets(
    redis: Redis, generation: str, name: Callable[[int], str], found: AsyncIterator[Records]
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
