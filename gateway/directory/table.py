"""Table: the records of one kind that this process knows, and the way to those it does not.

A record is *known* (and may say that it is refused), *absent* (the store is whole, and has none) or *unknown* (nobody
can tell now): StoreDown, and never taken for absent.
"""

from __future__ import annotations

import logging
from asyncio import Future, get_running_loop, timeout
from collections.abc import Awaitable, Callable
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

from gateway.cache import Cache
from gateway.clock import Clock
from gateway.directory.freshness import Era, Freshness
from gateway.directory.look_ups import Found, LookUp, LookUps, cannot_tell
from gateway.directory.options import DirectoryOptions
from gateway.metrics import Metrics

T = TypeVar("T")
Answer: TypeAlias = tuple[T | None] | None
"""What a look-up came to: a value, (None,) for a record that is refused or absent, None where nobody can tell."""

MOST_CHANGED: Final = 10_000
"""Organizations that are remembered to have changed; beyond that, what is held of them is looked for and dropped."""

_log: Final = logging.getLogger(__name__)


class Unreadable(Exception):
    """A record that this program does not understand: it may be a later one's."""


class Held(Generic[T]):
    """What a record said: `value` is None where it is refused.

    From `ends` (nanoseconds of Unix time) on it is refused; None: it does not end. `era` is the one it was looked up
    in, and `changes` how many changes of organizations had been heard by then.
    """

    __slots__ = ("changes", "ends", "era", "organization", "value")
    era: Era
    changes: int

    def __init__(self, value: T | None, *, ends: int | None = None, organization: str = "") -> None:
        self.value = value
        self.ends = ends
        self.organization = organization


class _Flight:
    """A look-up that is under way: when it began, and who waits for it."""

    __slots__ = ("changes", "era", "waiting")

    def __init__(self, era: Era, changes: int) -> None:
        self.era = era
        self.changes = changes
        self.waiting: list[Future[Any]] = []


class Kind(NamedTuple, Generic[T]):
    """A kind of records: its name, the hash in the store that a digest belongs to, and how a record is read.

    `read` raises Unreadable.
    """

    name: str
    hash_of: Callable[[bytes], str]
    read: Callable[[bytes], Held[T]]


class Table(Generic[T]):
    """Records of one kind, by digest: `find` is what requests call, `drop` and `leave` are what changes do."""

    def __init__(
        self,
        kind: Kind[T],
        most: int,
        options: DirectoryOptions,
        *,
        look_ups: LookUps,
        freshness: Freshness,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        """`most` records are held, beside those that `options` allows for what is absent."""
        self._kind = kind
        self._look_ups = look_ups
        self._freshness = freshness
        self._monotonic = clock.monotonic
        self._nanos = clock.nanos
        self._absent_ttl = options.absent_ttl
        self._changes = 0
        self._changed: dict[str, int] = {}
        self._flights: dict[bytes, _Flight] = {}
        self._count(kind.name, most, options.absent, metrics)

    def _count(self, name: str, most: int, absent: int, metrics: Metrics) -> None:
        sizes = metrics.gauge("tallygate_directory_cached", "Records that are held in memory, by kind.", ("kind",))
        evictions = metrics.counter(
            "tallygate_directory_evictions_total", "Records that made room in memory for others, by kind.", ("kind",)
        )
        found = metrics.counter(
            "tallygate_directory_found_total",
            "Callers that were asked for, by kind and by how: in memory (hit, absent), in memory and not certain"
            " (stale), or only in the store (miss).",
            ("kind", "how"),
        )
        self._held: Cache[Held[T]] = Cache(most, sizes.labels(name), evictions.labels(name))
        none = f"absent {name}"
        self._absent: Cache[tuple[Era, float]] = Cache(absent, sizes.labels(none), evictions.labels(none))
        self._hit = found.labels(name, "hit").inc
        self._known_absent = found.labels(name, "absent").inc
        self._stale = found.labels(name, "stale").inc
        self._miss = found.labels(name, "miss").inc
        self._unreadable = metrics.counter(
            "tallygate_directory_unreadable_total", "Records and changes in the store that are not understood."
        )

    def find(self, digest: bytes) -> T | Awaitable[T | None] | None:
        """The value of a record; None where it is refused or absent. An awaitable where the store has to be asked.

        Either raises StoreDown where nobody can tell.
        """
        held = self._held.get(digest)
        if held is None:
            return self._find_absent(digest)
        now = self._monotonic()
        if held.era is not self._freshness.era or now >= held.era.until or (self._changed and self._has_changed(held)):
            return self._find_uncertain(digest, held, now)
        self._hit()
        return self._valid(held)

    def drop(self, digest: bytes) -> None:
        """The record has changed."""
        self._held.drop(digest)
        self._absent.drop(digest)
        self._flights.pop(digest, None)  # what it brings is for those who wait for it, and for nobody later

    def leave(self, organization: str) -> None:
        """Every record of this organization may have changed."""
        self._changes += 1
        self._changed[organization] = self._changes
        if len(self._changed) > MOST_CHANGED:
            for digest, held in self._held.items():
                if self._has_changed(held):
                    self._held.drop(digest)
            self._flights.clear()
            self._changed.clear()

    # What is in memory, and does not simply hold

    def _find_absent(self, digest: bytes) -> T | Awaitable[T | None] | None:
        absent = self._absent.get(digest)
        if absent is not None:
            era, until = absent
            if self._freshness.live and era is self._freshness.era and self._monotonic() < until:
                self._known_absent()
                return None
            self._absent.drop(digest)
        self._miss()
        return self._look_up(digest)

    def _find_uncertain(self, digest: bytes, held: Held[T], now: float) -> T | Awaitable[T | None] | None:
        """Changes may have been missed since it was looked up. A store that cannot be asked, or is slow, keeps nobody
        waiting who is known.
        """
        if now >= held.era.until or self._has_changed(held):
            self._miss()
            return self._look_up(digest)
        if self._freshness.live and not self._look_ups.slow:
            return self._verify(digest, held)
        if digest not in self._flights and self._freshness.live:
            self._begin(digest)
        return self._remembered(held)

    def _valid(self, held: Held[T]) -> T | None:
        """What it is worth now: nothing behind its end."""
        return held.value if held.ends is None or self._nanos() < held.ends else None

    def _has_changed(self, held: Held[T]) -> bool:
        return self._changed.get(held.organization, 0) > held.changes

    async def _verify(self, digest: bytes, held: Held[T]) -> T | None:
        answer = await self._wait(digest)
        return self._remembered(held) if answer is None else answer[0]

    def _remembered(self, held: Held[T]) -> T | None:
        self._stale()
        return self._valid(held)

    # What the store is asked

    async def _look_up(self, digest: bytes) -> T | None:
        answer = await self._wait(digest)
        if answer is None:
            raise cannot_tell()
        return answer[0]

    async def _wait(self, digest: bytes) -> Answer[T]:
        """Each who waits has a future of its own: whoever leaves takes the answer from nobody else."""
        flight = self._flights.get(digest)
        if flight is None or flight.changes != self._changes or flight.era is not self._freshness.era:
            flight = self._begin(digest)  # what an earlier one brings may be older than what was heard since
        if flight is None:
            return None
        waiter: Future[Answer[T]] = get_running_loop().create_future()
        flight.waiting.append(waiter)
        try:
            async with timeout(self._look_ups.deadline):
                return await waiter
        except TimeoutError:
            self._look_ups.slow = True
            return None

    def _begin(self, digest: bytes) -> _Flight | None:
        flight = _Flight(self._freshness.era, self._changes)
        look_up = LookUp(self._kind.hash_of(digest), digest, lambda found: self._land(digest, flight, found))
        if not self._look_ups.begin(look_up):
            return None
        self._flights[digest] = flight
        return flight

    def _land(self, digest: bytes, flight: _Flight, found: Found | None) -> None:
        present = self._flights.get(digest) is flight  # else it has changed meanwhile
        if present:
            del self._flights[digest]
        answer = self._answer(digest, flight, found, keep=present) if found is not None else None
        for waiter in flight.waiting:
            if not waiter.done():
                waiter.set_result(answer)

    def _answer(self, digest: bytes, flight: _Flight, found: Found, *, keep: bool) -> Answer[T]:
        if found.value is None:
            if keep:
                self._held.drop(digest)
                self._absent.put(digest, (flight.era, self._monotonic() + self._absent_ttl))
            return (None,)
        try:
            held = self._kind.read(found.value)
        except Unreadable as error:
            if not self._unreadable.value:
                _log.error("%s in the store that this program does not understand: %s", self._kind.name, error)
            self._unreadable.inc()
            return None
        held.era, held.changes = flight.era, flight.changes
        if keep:
            self._absent.drop(digest)
            self._held.put(digest, held)
        return (self._valid(held),)
