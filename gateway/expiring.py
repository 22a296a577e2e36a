"""Expiring: what was found out and holds for a while, such as who a credential belongs to; bounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from gateway.cache import Bounded, Key
from gateway.metrics import Counter, Gauge, GaugePart

T = TypeVar("T")


class Expiring(Bounded[tuple[float, T]], Generic[T]):
    """Values by key, each until its time, or until it makes room."""

    __slots__ = ("_now",)

    def __init__(
        self, most: int, now: Callable[[], float], size: Gauge | GaugePart, evictions: Counter | None = None
    ) -> None:
        """`now` tells the time in seconds, on whatever clock the caller keeps."""
        super().__init__(most, size, evictions)
        self._now = now

    def get(self, key: Key) -> T | None:
        """The value, or None if there is none any more."""
        entry = self._held.get(key)
        if entry is None:
            return None
        if entry[0] <= self._now():
            self.drop(key)
            return None
        self._held.move_to_end(key)
        return entry[1]

    def put(self, key: Key, value: T, seconds: float) -> None:
        """Hold a value for so long, in place of one that is there."""
        self._hold(key, (self._now() + seconds, value))
