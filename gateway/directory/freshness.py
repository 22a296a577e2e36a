"""Freshness: whether what was looked up still holds, as far as this process can tell."""

from __future__ import annotations

from collections.abc import Callable
from math import inf


class Era:
    """A time during which no change was missed: what was looked up in it holds unless a change said otherwise.

    `until`, in monotonic seconds, is how long what is known from it may be served.
    """

    __slots__ = ("until",)

    def __init__(self, until: float) -> None:
        self.until = until


class Freshness:
    """`era` is the present one; `live` says whether changes are being heard now."""

    __slots__ = ("_confirmed_at", "_max_staleness", "_monotonic", "era", "live")

    def __init__(self, max_staleness: float, monotonic: Callable[[], float]) -> None:
        """`max_staleness` is seconds; `monotonic` tells the time."""
        self._max_staleness = max_staleness
        self._monotonic = monotonic
        self._confirmed_at = -inf
        self.era = Era(-inf)
        self.live = False

    def confirm(self, at: float) -> None:
        """All that was published up to this time has been heard."""
        self._confirmed_at = at
        self.era.until = at + self._max_staleness
        self.live = True

    def begin_era(self, at: float) -> None:
        """Changes may have been missed, and all that come after this time will be heard."""
        self.era = Era(-inf)
        self.confirm(at)

    def lapsed(self) -> bool:
        """Whether nothing is known any more that may be served unasked."""
        return self._monotonic() >= self.era.until

    def staleness(self) -> float:
        """Seconds since it was last certain that all changes had been heard; inf before the first time."""
        return self._monotonic() - self._confirmed_at
