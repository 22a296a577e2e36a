"""Claims: who may serve a request that has an idempotency key, and the answer it got; shared by all processes.

Under each key the store keeps a hash. While a request is being served it holds `fingerprint` and `token`, for a short
time that its process prolongs; a process that dies prolongs nothing. Then come `answer` and `delivered`, for as long
as the answer may be asked for again. The token is the fence: whoever's claim has run out finds another's token there,
or none, and changes nothing any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from gateway.stores.redis import Redis

_CLAIM: Final = """
local found = redis.call('HMGET', KEYS[1], 'fingerprint', 'token', 'answer', 'delivered')
if found[1] then return found end
redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'token', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return false
"""
_HELD: Final = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] or redis.call('HEXISTS', KEYS[1], 'answer') == 1 then return 0 end
"""
_PROLONG: Final = f"{_HELD} return redis.call('PEXPIRE', KEYS[1], ARGV[2])"
_RELEASE: Final = f"{_HELD} return redis.call('DEL', KEYS[1])"
_SETTLE: Final = f"""{_HELD}
redis.call('HSET', KEYS[1], 'answer', ARGV[2], 'delivered', ARGV[3])
return redis.call('PEXPIRE', KEYS[1], ARGV[4])
"""
_DELIVERED: Final = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'delivered', 1)
return 1
"""


class Answer(msgspec.Struct, array_like=True, gc=False):
    """What is given again: a status with its reason, fields in order, and the body."""

    status: int
    reason: bytes | None
    fields: list[tuple[str, str]]
    body: bytes


class Claim(msgspec.Struct, gc=False):
    """The right to serve the request with this key. `name` is the key in the store."""

    name: str
    token: bytes


class Found(msgspec.Struct, gc=False):
    """What another request left under the key. `delivered` says that its answer reached its client whole."""

    fingerprint: bytes
    claim: Claim
    answer: Answer | None
    delivered: bool


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Answer).decode


class Claims:
    """Every method raises StoreUnavailable, within the time that the store gives a request."""

    def __init__(self, redis: Redis, *, lock_seconds: float, ttl_seconds: float) -> None:
        self._redis = redis
        self._lock = int(lock_seconds * 1000)
        self._ttl = int(ttl_seconds * 1000)

    async def take(self, claim: Claim, fingerprint: bytes) -> Found | None:
        """Claim a key; if it is taken, what is there."""
        reply = await self._redis.run(_CLAIM, [claim.name], [fingerprint, claim.token, self._lock])
        if reply is None:
            return None
        seen, token, answer, delivered = reply
        return Found(seen, Claim(claim.name, token), _decode(answer) if answer else None, delivered == b"1")

    async def prolong(self, claims: Iterable[Claim]) -> None:
        """Keep claims for another while."""
        await self._redis.run_each(_PROLONG, [((claim.name,), (claim.token, self._lock)) for claim in claims])

    async def release(self, claim: Claim) -> None:
        """Give a claim back: whoever asks next serves the request."""
        await self._redis.run(_RELEASE, [claim.name], [claim.token])

    async def settle(self, claim: Claim, answer: Answer, *, delivered: bool) -> bool:
        """Put the answer where the claim was; False if the claim had run out, and then nothing is changed."""
        kept = await self._redis.run(_SETTLE, [claim.name], [claim.token, _encode(answer), int(delivered), self._ttl])
        return bool(kept)

    async def mark_delivered(self, claim: Claim) -> None:
        """The answer reached a client whole."""
        await self._redis.run(_DELIVERED, [claim.name], [claim.token])
