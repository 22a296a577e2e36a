"""Cache: values by digest, a bounded number of them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from gateway.metrics import Counter, Gauge

T = TypeVar("T")


class Cache(Generic[T]):
    """At most `most` values; the one that was not asked for the longest makes room."""

    __slots__ = ("_evictions", "_held", "_most", "_size")

    def __init__(self, most: int, size: Gauge, evictions: Counter) -> None:
        # Not a plain dict: finding the first key of one whose first keys were deleted takes ever longer.
        self._held: OrderedDict[bytes, T] = OrderedDict()
        self._most = most
        self._size = size
        self._evictions = evictions

    def __len__(self) -> int:
        return len(self._held)

    def get(self, digest: bytes) -> T | None:
        """The value, now the one that was asked for last."""
        value = self._held.get(digest)
        if value is not None:
            self._held.move_to_end(digest)
        return value

    def put(self, digest: bytes, value: T) -> None:
        """Hold a value, in place of one that is there."""
        self._held[digest] = value
        self._held.move_to_end(digest)
        if len(self._held) > self._most:
            self._held.popitem(last=False)
            self._evictions.inc()
        self._size.set(len(self._held))

    def drop(self, digest: bytes) -> None:
        """Forget a value; that there is none is no error."""
        if self._held.pop(digest, None) is not None:
            self._size.set(len(self._held))

    def items(self) -> list[tuple[bytes, T]]:
        """All of them, the one that was not asked for the longest first."""
        return list(self._held.items())
