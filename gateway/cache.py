"""Cache: values by key, a bounded number of them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeAlias, TypeVar

from gateway.metrics import Counter, Gauge, GaugePart

T = TypeVar("T")
Key: TypeAlias = bytes | str


class Bounded(Generic[T]):
    """At most `most` entries; the one that was not asked for the longest makes room. What an entry is, and when it was
    asked for, others say.

    Those that use it together `retain` it, and `release` it in the end.
    """

    __slots__ = ("_evictions", "_held", "_most", "_size", "_users")

    def __init__(self, most: int, size: Gauge | GaugePart, evictions: Counter | None = None) -> None:
        """`size` shows how many there are, `evictions` how many have made room."""
        # Not a plain dict: finding the first key of one whose first keys were deleted takes ever longer.
        self._held: OrderedDict[Key, T] = OrderedDict()
        self._most = most
        self._size = size
        self._evictions = evictions
        self._users = 0

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: Key) -> bool:
        """Whether there is a value, which does not count as asking for it."""
        return key in self._held

    def _hold(self, key: Key, entry: T) -> None:
        self._held[key] = entry
        self._held.move_to_end(key)
        if len(self._held) > self._most:
            self._held.popitem(last=False)
            if self._evictions is not None:
                self._evictions.inc()
        self._size.set(len(self._held))

    def drop(self, key: Key) -> None:
        """Forget a value; that there is none is no error."""
        if self._held.pop(key, None) is not None:
            self._size.set(len(self._held))

    def clear(self) -> None:
        """Forget all."""
        self._held.clear()
        self._size.set(0)

    def retain(self) -> None:
        """One more uses this: a plugin, and for a while the one that takes its place at a reload."""
        self._users += 1

    def release(self) -> None:
        """One of them is gone; with the last one goes all that was held."""
        self._users -= 1
        if self._users <= 0:
            self.clear()


class Cache(Bounded[T]):
    """Values that hold until they are dropped, or make room."""

    __slots__ = ()

    def get(self, key: Key) -> T | None:
        """The value, now the one that was asked for last."""
        value = self._held.get(key)
        if value is not None:
            self._held.move_to_end(key)
        return value

    def put(self, key: Key, value: T) -> None:
        """Hold a value, in place of one that is there."""
        self._hold(key, value)

    def items(self) -> list[tuple[Key, T]]:
        """All of them, the one that was not asked for the longest first."""
        return list(self._held.items())
