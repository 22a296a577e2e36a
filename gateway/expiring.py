"""Expiring: what was found out and holds for a while, such as who a credential belongs to; bounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from gateway.metrics import GaugePart

T = TypeVar("T")


class Expiring(Generic[T]):
    """Values by key, each until its time. Beyond `most` of them, the one that was not asked for the longest goes.

    `now` tells the time in seconds, on whatever clock the caller keeps. `size` shows how many there are.
    """

    __slots__ = ("_held", "_most", "_now", "_size", "_users")

    def __init__(self, most: int, now: Callable[[], float], size: GaugePart) -> None:
        self._held: dict[bytes | str, tuple[float, T]] = {}  # in the order in which they were asked for
        self._most = most
        self._now = now
        self._size = size
        self._users = 0

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: bytes | str) -> T | None:
        """The value, or None if there is none any more."""
        entry = self._held.pop(key, None)
        if entry is None:
            return None
        if entry[0] <= self._now():
            self._size.set(len(self._held))
            return None
        self._held[key] = entry
        return entry[1]

    def put(self, key: bytes | str, value: T, seconds: float) -> None:
        """Hold a value for so long, in place of one that is there."""
        held = self._held
        held.pop(key, None)
        if len(held) >= self._most:
            del held[next(iter(held))]
        held[key] = self._now() + seconds, value
        self._size.set(len(held))

    def drop(self, key: bytes | str) -> None:
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
