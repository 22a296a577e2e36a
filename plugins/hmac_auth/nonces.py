"""Nonces: what has been signed once is not taken again, by whichever process; the store remembers."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from gateway.expiring import Expiring
from gateway.problem import StoreDown, retry_after
from gateway.stores.redis import Redis
from gateway.stores.store import StoreUnavailable

_CLAIM: Final = "return redis.call('SET', KEYS[1], '', 'NX', 'PX', ARGV[1])"


class Nonces:
    """A nonce belongs to the key that it was signed with. `seen` spares the store those that come here again."""

    def __init__(self, redis: Redis, seen: Expiring[bool]) -> None:
        self._redis = redis
        self.seen = seen

    async def claim(self, key_id: str, nonce: str, seconds: float) -> bool:
        """Whether nobody has used it within so many seconds; from now on somebody has. Raises StoreDown.

        One that the store may have heard of although it did not answer is as good as used: sign anew.
        """
        name = sha256(f"{key_id}\0{nonce}".encode()).digest()
        if self.seen.get(name):
            return False
        try:
            claimed = await self._redis.run(_CLAIM, [f"hmac:nonce:{name.hex()}"], [max(1, int(seconds * 1000))])
        except StoreUnavailable:
            raise StoreDown(headers=retry_after(1)) from None
        self.seen.put(name, True, seconds)
        return claimed is not None
