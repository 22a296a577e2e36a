"""The projection on a real Valkey: what is missing is absent only where nothing can be missing."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import projection
from gateway.projection import Change, KeyLimit, KeyRecord, OrganizationRecord
from gateway.stores.redis import Redis
from tests.fixtures.valkey import redis, valkey, valkey_process

__all__ = ["redis", "valkey", "valkey_process"]

KEY = sha256(b"a key").digest()
BUCKET = projection.keys_key(KEY)
RECORD = projection.encode(KeyRecord(id="k1", name="reports", organization="acme"))


async def write_anew(redis: Redis, generation: str = "g1", fields: dict[bytes, bytes] | None = None) -> None:
    pairs = [part for pair in (fields or {}).items() for part in pair]
    await redis.run(projection.BEGIN, [projection.STATE], [generation])
    arguments = [generation, len(pairs) // 2, *pairs, 0]
    assert await redis.run(projection.REPLACE, [projection.STATE, BUCKET, projection.REVOKED], arguments) == 1
    change = projection.encode(Change(sequence=1, kind="all"))
    keys = [projection.STATE, projection.CHANGES]
    assert await redis.run(projection.FINISH, keys, [generation, projection.LONGEST_STREAM, change]) == 1


async def publish(redis: Redis, sequence: int, field: bytes, value: bytes, generation: str = "g1") -> int:
    change = Change(sequence=sequence + 1, kind="key", ids=(field.hex(),))
    keys, arguments = projection.publish_arguments(generation, sequence, [(BUCKET, field, value)], [change])
    return int(await redis.run(projection.PUBLISH, keys, arguments))


async def look_up(redis: Redis, *fields: bytes) -> tuple[bool, list[bytes | None]]:
    whole, _, _, values = await redis.run(projection.LOOK_UP, [BUCKET, projection.STATE], fields)
    return bool(whole), values


async def test_an_empty_store_knows_nothing(redis: Redis) -> None:
    assert await look_up(redis, KEY) == (False, [None])


async def test_while_all_is_written_anew_nothing_is_absent(redis: Redis) -> None:
    await write_anew(redis)
    assert await look_up(redis, KEY) == (True, [None])
    await redis.run(projection.BEGIN, [projection.STATE], ["g2"])
    assert await look_up(redis, KEY) == (False, [None])
    assert await publish(redis, 1, KEY, RECORD) == -1


async def test_of_two_that_write_all_anew_the_later_one_goes_on(redis: Redis) -> None:
    await redis.run(projection.BEGIN, [projection.STATE], ["g1"])
    await redis.run(projection.BEGIN, [projection.STATE], ["g2"])
    assert await redis.run(projection.REPLACE, [projection.STATE, BUCKET], ["g1", 0]) == 0
    keys = [projection.STATE, projection.CHANGES]
    assert await redis.run(projection.FINISH, keys, ["g1", projection.LONGEST_STREAM, b"x"]) == 0
    assert await redis.run(projection.REPLACE, [projection.STATE, BUCKET], ["g2", 0]) == 1


async def test_a_record_appears_changes_and_goes_and_the_stream_tells(redis: Redis) -> None:
    await write_anew(redis)
    assert await publish(redis, 1, KEY, RECORD) == 2
    assert await look_up(redis, KEY) == (True, [RECORD])
    assert await publish(redis, 2, KEY, RECORD + b" ") == 3
    assert await publish(redis, 3, KEY, b"") == 4
    assert await look_up(redis, KEY) == (True, [None])
    script = (
        "local f = {} for _, e in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do f[#f+1] = e[2][2] end return f"
    )
    changes = [projection.decode_change(entry) for entry in await redis.run(script, [projection.CHANGES])]
    assert [(change.sequence, change.kind) for change in changes] == [(1, "all"), *((n, "key") for n in (2, 3, 4))]


@pytest.mark.parametrize(("generation", "sequence"), [("g0", 1), ("g1", 0), ("g1", 2)])
async def test_who_knows_another_state_writes_nothing(redis: Redis, generation: str, sequence: int) -> None:
    await write_anew(redis)
    assert await publish(redis, sequence, KEY, RECORD, generation) == -1
    assert await look_up(redis, KEY) == (True, [None])


async def test_a_hash_that_lost_a_field_is_not_believed(redis: Redis) -> None:
    await write_anew(redis, fields={KEY: RECORD, b"x" * 32: RECORD})
    await redis.hash_delete(BUCKET, ["x" * 32])
    assert await look_up(redis, KEY, b"x" * 32) == (False, [RECORD, None])


async def test_a_hash_that_was_evicted_is_not_begun_anew(redis: Redis) -> None:
    await write_anew(redis, fields={KEY: RECORD})
    await redis.run("return redis.call('DEL', KEYS[1])", [BUCKET])
    assert await publish(redis, 1, b"y" * 32, RECORD) == -1
    assert await look_up(redis, b"y" * 32) == (False, [None])


async def test_where_to_follow_from(redis: Redis) -> None:
    """All of it of one moment, and nothing at all of a store that is not complete."""
    keys = [projection.REVOKED, projection.STATE, projection.CHANGES]
    assert await redis.run(projection.START, keys) is None
    await write_anew(redis)
    generation, sequence, newest, fields = await redis.run(projection.START, keys)
    assert (generation, sequence, fields) == (b"g1", b"1", [b"#", b"0"])
    assert newest != b"0-0"
    await redis.hash_write(projection.REVOKED, {"#": "1"})
    assert await redis.run(projection.START, keys) is None


texts = st.text(max_size=20)
numbers = st.none() | st.integers(min_value=0, max_value=2**40)


@given(
    st.builds(
        KeyRecord,
        id=texts,
        name=texts,
        organization=texts,
        permissions=st.lists(texts).map(tuple),
        attributes=st.dictionaries(texts, texts),
        limits=st.lists(st.builds(KeyLimit, texts, st.integers(0, 2**50), st.integers(1, 2**30)), max_size=3).map(
            tuple
        ),
        expires_at=numbers,
        revoked_at=numbers,
    )
)
def test_a_key_record_reads_as_it_was_written(record: KeyRecord) -> None:
    assert projection.decode_key(projection.encode(record)) == record


@given(st.builds(OrganizationRecord, name=texts, roles=st.dictionaries(texts, st.lists(texts).map(tuple))))
def test_an_organization_record_reads_as_it_was_written(record: OrganizationRecord) -> None:
    assert projection.decode_organization(projection.encode(record)) == record


@given(st.binary(min_size=32, max_size=32))
def test_every_digest_has_a_bucket(digest: bytes) -> None:
    assert projection.keys_key(digest) == projection.keys_bucket(int(digest.hex()[:3], 16))
