"""Look-ups: records on their way from the store, many in one trip.

Trips have more time than a request that waits for one. So a store that is slow has its answers used after all, by
whoever asks next.
"""

from __future__ import annotations

from asyncio import get_running_loop
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from gateway.background import Background
from gateway.metrics import Metrics
from gateway.problem import StoreDown, retry_after
from gateway.projection import LOOK_UP, STATE
from gateway.stores.redis import Redis
from gateway.stores.store import StoreUnavailable

TRIPS: Final = 4
"""Trips that are under way at a time."""
FIELDS_PER_TRIP: Final = 256
MOST: Final = 10_000
"""Look-ups that wait or are under way at a time; beyond that, nobody can tell who calls."""
TRIP_SECONDS: Final = 2.0
"""What one may take."""


class Found(NamedTuple):
    """What is in the store: a record; `value` None is that there is none."""

    value: bytes | None


class LookUp:
    """One record on its way. `landed` is called once: with what was found, or None where nobody can tell."""

    __slots__ = ("field", "hash", "landed")

    def __init__(self, hash_: str, field: bytes, landed: Callable[[Found | None], None]) -> None:
        self.hash = hash_
        self.field = field
        self.landed = landed


class LookUps:
    """All those of a process. Those that are asked for in the same turn of the event loop travel together."""

    def __init__(self, redis: Redis, background: Background, metrics: Metrics, *, deadline: float) -> None:
        """A trip that takes longer than `deadline` (seconds) shows that the store is slow."""
        self._redis = redis
        self._background = background
        self.deadline = deadline
        """Seconds that a request waits for a look-up."""
        self._waiting: deque[LookUp] = deque()
        self._count = 0
        self._trips = 0
        self._departing = False
        self.slow = False
        """Whether the store did not answer in time when it was last asked."""
        self._seconds = metrics.histogram(
            "tallygate_directory_trip_seconds", "How long the store took to answer look-ups of callers."
        )
        self._unknown = metrics.counter(
            "tallygate_directory_unknown_total",
            "Look-ups that found out nothing: the store was unavailable or is incomplete, or there were too many.",
            ("reason",),
        )

    def begin(self, look_up: LookUp) -> bool:
        """Send it on its way; False if there are too many."""
        if self._count >= MOST:
            self._unknown.labels("too_many").inc()
            return False
        self._count += 1
        self._waiting.append(look_up)
        if not self._departing:
            self._departing = True
            get_running_loop().call_soon(self._depart)
        return True

    def _depart(self) -> None:
        self._departing = False
        while self._waiting and self._trips < TRIPS:
            batch = [self._waiting.popleft() for _ in range(min(FIELDS_PER_TRIP, len(self._waiting)))]
            self._trips += 1
            _ = self._background.start(self._travel(batch), "look-up of callers")

    async def _travel(self, batch: list[LookUp]) -> None:
        landing: list[tuple[LookUp, Found | None]] = [(look_up, None) for look_up in batch]
        try:
            landing = await self._ask(batch)
        except StoreUnavailable:
            self.slow = True
            self._unknown.labels("unavailable").inc(len(batch))
        finally:
            self._trips -= 1
            self._count -= len(batch)
            for look_up, found in landing:
                look_up.landed(found)
        if not self._departing:
            self._depart()

    async def _ask(self, batch: list[LookUp]) -> list[tuple[LookUp, Found | None]]:
        """What became of each of them. Raises StoreUnavailable."""
        hashes: dict[str, list[LookUp]] = {}
        for look_up in batch:
            hashes.setdefault(look_up.hash, []).append(look_up)
        calls = [((key, STATE), [look_up.field for look_up in within]) for key, within in hashes.items()]
        clock = get_running_loop()
        began = clock.time()
        replies = await self._redis.run_each(LOOK_UP, calls, deadline=TRIP_SECONDS)
        seconds = clock.time() - began
        self._seconds.observe(seconds)
        self.slow = seconds > self.deadline
        landing: list[tuple[LookUp, Found | None]] = []
        for within, (whole, _, _, values) in zip(hashes.values(), replies, strict=True):
            for look_up, value in zip(within, values, strict=True):
                known = value is not None or whole
                landing.append((look_up, Found(value) if known else None))
                if not known:
                    self._unknown.labels("incomplete").inc()
        return landing


def cannot_tell() -> StoreDown:
    """What is raised where nobody can tell now who calls."""
    return StoreDown(headers=retry_after(1))
