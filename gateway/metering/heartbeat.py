"""Heartbeat: what a whole node has not yet got into the books, published every second by its supervisor.

A billing period can be closed when no node may still hold usage of it. So the answer must never be too late a time; a
few seconds too early cost nothing. For processes that live it is read from their files: the first record of a segment
was admitted before any use in that segment ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path
from typing import Final, NamedTuple

from gateway.clock import Clock
from gateway.metering.directory import Directory
from gateway.metering.segment import first_admitted_at
from gateway.metering.stream import Heartbeat, sweep_counts, write_heartbeat
from gateway.metrics import Metrics
from gateway.stores.redis import Redis
from gateway.stores.store import StoreUnavailable

_BEATS_PER_SWEEP: Final = 60


class _Survey(NamedTuple):
    oldest_at: int | None
    names: list[str]
    bytes: int
    damaged: int


class Heart:
    """Looks at the journal directory of a node and publishes what it sees."""

    def __init__(self, directory: Directory, *, redis: Redis, clock: Clock, metrics: Metrics, budget: int) -> None:
        self._directory = directory
        self._redis = redis
        self._clock = clock
        self._budget = budget
        self._first: dict[Path, int] = {}
        self._beats = 0
        self._segments = metrics.gauge("tallygate_journal_segments", "Segments on disk, of all processes of the node.")
        self._bytes = metrics.gauge("tallygate_journal_bytes", "Disk space of the node's segments.")
        self._over = metrics.gauge("tallygate_journal_over_budget", "1 while the segments take more than the budget.")
        self._damaged = metrics.gauge(
            "tallygate_journal_damaged_files", "Damaged ends of segments that wait beside them to be looked into."
        )
        self._age = metrics.gauge(
            "tallygate_usage_unaccounted_seconds", "Age of the oldest usage that may not be accounted for yet."
        )
        self._errors_total = metrics.counter(
            "tallygate_usage_heartbeat_errors_total", "Heartbeats that the store did not take."
        )

    async def beat(self, known: Collection[str], known_oldest_at: int | None) -> None:
        """Publishes one heartbeat. `known_oldest_at` (microseconds) speaks for the boots in `known`.

        Raises OSError if the journal cannot be read.
        """
        at = self._clock.micros()
        survey = await asyncio.get_running_loop().run_in_executor(None, self._survey, frozenset(known))
        oldest_at = min((time for time in (known_oldest_at, survey.oldest_at) if time is not None), default=None)
        self._segments.set(len(survey.names))
        self._bytes.set(survey.bytes)
        self._damaged.set(survey.damaged)
        self._over.set(survey.bytes > self._budget)
        self._age.set(0.0 if oldest_at is None else (at - oldest_at) / 1e6)
        try:
            heartbeat = Heartbeat(oldest_at, at, len(survey.names), survey.bytes)
            await write_heartbeat(self._redis, self._directory.node, heartbeat)
            if self._beats % _BEATS_PER_SWEEP == 0:
                await sweep_counts(self._redis, self._directory.node, set(survey.names))
            self._beats += 1
        except StoreUnavailable:
            self._errors_total.inc()

    def _survey(self, known: frozenset[str]) -> _Survey:
        """Runs in a thread, one at a time."""
        files = self._directory.segments()
        first: dict[Path, int] = {}
        for file in files:
            if file.boot not in known:
                at = self._first.get(file.path) or _first_record(file.path)
                if at is not None:
                    first[file.path] = at
        self._first = first
        names = [f"{file.boot}/{file.sequence:08d}" for file in files]
        size = sum(file.size for file in files)
        return _Survey(min(first.values(), default=None), names, size, self._directory.damaged())


def _first_record(path: Path) -> int | None:
    try:
        return first_admitted_at(path)
    except FileNotFoundError:
        return None  # accounted for and deleted a moment ago
