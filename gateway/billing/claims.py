"""Claims: which shards this worker serves, so that no two workers do each other's work.

Advisory locks of one PostgreSQL session say it: a shard's lock belongs to its owner, and one lock that all workers
share counts them. A worker that dies, by whatever death, loses its session and with it its claims, and the others share
them out. Correctness does not hang on this: two owners of a shard would wait for each other and see only replays.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from gateway.billing.database import Connection, Row
from gateway.metrics import Metrics

_log = logging.getLogger(__name__)


class Move(NamedTuple):
    """How many shards to take, and how many to give up."""

    take: int
    give: int


def fair_move(mine: int, others: Iterable[int], shards: int) -> Move:
    """What a worker with `mine` shards should do, given how many each of the others has.

    In the end all shards are taken and nobody has two more than another. A shard beyond the even share is taken only
    when nobody is short of it, so that what one gives up another gets.
    """
    loads = [*others]
    low, rest = divmod(shards, len(loads) + 1)
    high = low + (1 if rest else 0)
    short = any(load < low for load in loads)
    if mine > high:
        return Move(0, mine - high)
    if mine > low and short:
        return Move(0, 1)
    free = shards - mine - sum(loads)
    return Move(min(free, (low if short else high) - mine) if mine < high else 0, 0)


class Claims:
    """The shards of one worker. `owned` is safe to read at any time; a shard leaves it before it is given up."""

    def __init__(self, shards: int, metrics: Metrics) -> None:
        self._shards = shards
        self._leaving: set[int] = set()
        self.owned: set[int] = set()
        self._gauge = metrics.gauge("tallygate_billing_shards_owned", "Shards this worker serves.")

    async def join(self, session: Connection) -> None:
        """Makes this worker known on a fresh session; nothing is owned yet."""
        self.lost()
        await session.run("join_workers")

    async def renew(self, session: Connection, in_hand: set[int]) -> None:
        """Takes and gives up shards until it is fair; one that is `in_hand` is given up when it no longer is."""
        for shard in self._leaving - in_hand:
            await session.run("release_shard", shard)
            self._leaving.discard(shard)
        rows = await session.rows("look_around")
        loads = Counter({row["pid"]: 0 for row in rows})
        loads.update(row["pid"] for row in rows if row["shard"] is not None)
        own = {row["pid"] for row in rows if row["own"]}
        others = [load for pid, load in loads.items() if pid not in own]
        # What is leaving counts as given up: whether it is fair shows when it is.
        move = fair_move(len(self.owned), others, self._shards)
        if move.give:
            self._give_up(move.give, in_hand)
        elif move.take:
            await self._take(session, move.take, rows)
        self._gauge.set(len(self.owned))

    def lost(self) -> None:
        """The session is gone, and every lock with it."""
        self.owned.clear()
        self._leaving.clear()
        self._gauge.set(0)

    def _give_up(self, count: int, in_hand: set[int]) -> None:
        idle_first = sorted(self.owned, key=lambda shard: shard in in_hand)
        for shard in idle_first[:count]:
            self.owned.discard(shard)
            self._leaving.add(shard)

    async def _take(self, session: Connection, count: int, rows: list[Row]) -> None:
        taken = {row["shard"] for row in rows}
        free = [shard for shard in range(self._shards) if shard not in taken]
        random.shuffle(free)  # or all workers would reach for the same one
        found = {shard for shard in free[:count] if await session.value("claim_shard", shard)}
        self.owned |= found
        if found:
            _log.info("serving %d more shards, %d of %d", len(found), len(self.owned), self._shards)
