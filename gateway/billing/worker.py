"""Worker: takes usage from the streams, has it accounted for, and only then lets go of it.

Read, account, commit, acknowledge, publish the counts: whatever dies in between, the entries come back and are found to
be replays. A shard whose store or database fails is left alone for a while and then begun with what was left pending.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from gateway.background import Background
from gateway.billing.claims import Claims
from gateway.billing.database import WORKER, Database, DatabaseUnavailable, Retry
from gateway.billing.intake import Intake
from gateway.billing.options import BillingOptions
from gateway.billing.record import Delivered, columns, unpack
from gateway.clock import Clock
from gateway.config.configuration import GatewayConfig
from gateway.metering.stream import GROUP, publish_counts, read_nodes, stream_name
from gateway.metrics import Metrics
from gateway.stores.address import postgres_url, redis_url
from gateway.stores.redis import Redis
from gateway.stores.store import StoreUnavailable

_log: Final = logging.getLogger(__name__)

_CONSUMER: Final = "worker"
"""All workers are one consumer: a shard has one owner, who takes over whatever an earlier one left pending."""
_READ: Final = 32
"""Entries of a stream taken at once; with frames of 500 events this bounds what a worker holds in memory."""
_SWEEP_SECONDS: Final = 10.0
"""How often a shard is looked through for entries that were read and forgotten, even if nothing failed."""
_RENEW_SECONDS: Final = 1.0
_HEARTBEAT_SECONDS: Final = 2.0
_DAYS_SECONDS: Final = 60.0
_FORGET_SECONDS: Final = 600.0
_FORGOTTEN_AT_ONCE: Final = 10_000
_LONGEST_BACKOFF: Final = 5.0


class _Turn:
    """A claimed shard: when it is due, and whether entries may be pending that nobody finished with."""

    __slots__ = ("due", "failures", "number", "pending", "stream", "swept_at")

    def __init__(self, number: int) -> None:
        self.number = number
        self.stream = stream_name(number)
        self.due = 0.0
        self.failures = 0
        self.pending = True
        self.swept_at = 0.0


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row: 0.1 s doubling up to 5 s, the half of it by chance."""
    longest = min(_LONGEST_BACKOFF, 0.1 * 2.0 ** min(failures - 1, 10))
    return longest * (0.5 + 0.5 * random.random())  # noqa: S311  # nobody gains by guessing it


def batches(delivered: Iterable[Delivered], size: int) -> Iterator[list[Delivered]]:
    """Entries put together to about `size` records; an entry is never split."""
    batch: list[Delivered] = []
    records = 0
    for each in delivered:
        if batch and records + len(each.records) > size:
            yield batch
            batch, records = [], 0
        batch.append(each)
        records += len(each.records)
    if batch:
        yield batch


class Worker:
    """Serves the shards it claims, `options.connections` of them at once."""

    def __init__(
        self, redis: Redis, database: Database, *, shards: int, options: BillingOptions, metrics: Metrics, clock: Clock
    ) -> None:
        """`database` needs `options.connections` connections and two more."""
        self._redis = redis
        self._database = database
        self._options = options
        self._clock = clock
        self._intake = Intake(database, metrics, clock, retention=options.retention)
        self._claims = Claims(shards, metrics)
        self._turns: dict[int, _Turn] = {}
        self._in_hand: set[int] = set()
        self._failures = metrics.counter(
            "tallygate_billing_failures_total", "Batches that have to come back because a store failed.", ("store",)
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop` is set and the batches in hand are committed and acknowledged."""
        background = Background()
        background.every(_DAYS_SECONDS, self._open_days, "open-days", at_once=True)
        background.every(_FORGET_SECONDS, self._forget_segments, "forget-segments", at_once=True)
        background.every(_HEARTBEAT_SECONDS, self._copy_heartbeats, "copy-heartbeats")
        ended = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as tasks:
                claiming = tasks.create_task(self._keep_claims(ended))
                lanes = [tasks.create_task(self._lane(stop)) for _ in range(self._options.connections)]
                await asyncio.wait(lanes)
                ended.set()  # the claims are kept until the last batch is done
                await claiming
        finally:
            await background.stop()

    async def _lane(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            shard = self._next()
            if shard is None:
                await _pause(stop, self._options.poll)
                continue
            self._in_hand.add(shard.number)
            try:
                await self._serve(shard, stop)
            finally:
                self._in_hand.discard(shard.number)

    def _next(self) -> _Turn | None:
        """The shard that has been due for longest, if one is."""
        owned = self._claims.owned
        self._turns = {number: self._turns.get(number) or _Turn(number) for number in owned}
        waiting = [turn for turn in self._turns.values() if turn.number not in self._in_hand]
        first = min(waiting, key=lambda turn: turn.due, default=None)
        return first if first is not None and first.due <= self._clock.monotonic() else None

    async def _serve(self, shard: _Turn, stop: asyncio.Event) -> None:
        """One read of a shard, and all that follows from it."""
        try:
            delivered = await self._read(shard)
            for batch in batches(delivered, self._options.batch):
                if stop.is_set():
                    break
                await self._account(shard, batch)
        except StoreUnavailable as error:
            self._failed(shard, "redis", error)
        except (DatabaseUnavailable, Retry) as error:
            self._failed(shard, "postgres", error)
        except Exception as error:  # noqa: BLE001 - a bug, or a schema that is not ours: the entries stay where they are
            self._failed(shard, "none", error)
        else:
            shard.failures = 0
            shard.due = self._clock.monotonic() + (0.0 if delivered else self._options.poll)

    async def _read(self, shard: _Turn) -> list[Delivered]:
        now = self._clock.monotonic()
        entries = []
        if shard.pending or now > shard.swept_at + _SWEEP_SECONDS:
            entries = await self._redis.claim_stale(shard.stream, GROUP, _CONSUMER, idle_seconds=0, count=_READ)
            shard.pending = bool(entries)
            shard.swept_at = now
        if not entries:
            entries = await self._redis.read_group(GROUP, _CONSUMER, [shard.stream], count=_READ)
        return [unpack(entry.identifier, entry.payload) for entry in entries]

    async def _account(self, shard: _Turn, batch: list[Delivered]) -> None:
        accounted = await self._intake.account(shard.number, batch)
        await self._redis.acknowledge(shard.stream, GROUP, [delivered.entry for delivered in batch])
        counts = {(segment, shard.number): count for segment, count in accounted.counts.items()}
        await publish_counts(self._redis, counts)

    def _failed(self, shard: _Turn, store: str, error: Exception) -> None:
        shard.pending = True
        shard.failures += 1
        shard.due = self._clock.monotonic() + backoff(shard.failures)
        self._failures.labels(store).inc()
        if shard.failures == 1:
            unforeseen = error if store == "none" else None
            _log.warning("shard %d: %s; its batch comes back", shard.number, error, exc_info=unforeseen)

    async def _keep_claims(self, ended: asyncio.Event) -> None:
        """Holds a session and the claims on it; when it breaks, begins again."""
        failures = 0
        while not ended.is_set():
            try:
                async with self._database.session() as session:
                    await self._claims.join(session)
                    failures = 0
                    while not ended.is_set():
                        await self._claims.renew(session, self._in_hand)
                        await _pause(ended, _RENEW_SECONDS)
            except (DatabaseUnavailable, Retry) as error:
                failures += 1
                if failures == 1:
                    _log.warning("the claims on all shards are lost: %s", error)
                await _pause(ended, backoff(failures))
            finally:
                self._claims.lost()

    async def _open_days(self) -> None:
        """Opens today and the days to come, so that midnight costs nothing; and yesterday for what is on its way."""
        today = datetime.fromtimestamp(self._clock.micros() / 1e6, UTC).date()
        with suppress(DatabaseUnavailable, Retry):  # tried again soon, and by whoever books an event of that day
            for ahead in range(-1, self._options.days_ahead + 1):
                await self._intake.open_day(today + timedelta(days=ahead))

    async def _forget_segments(self) -> None:
        """Lets go of the counts of segments whose events are archived, when retention is over."""
        with suppress(DatabaseUnavailable, Retry):  # tried again soon
            async with self._database.session() as session:
                await session.value("forget_segments", self._options.retention, _FORGOTTEN_AT_ONCE)

    async def _copy_heartbeats(self) -> None:
        """Keeps in PostgreSQL what the nodes say of themselves in Redis, which may forget it."""
        with suppress(StoreUnavailable, DatabaseUnavailable, Retry):  # they will say it again
            nodes = await read_nodes(self._redis)
            rows = [
                (node, beat.at, beat.oldest_unaccounted_at, beat.segments, beat.bytes) for node, beat in nodes.items()
            ]
            if rows:
                async with self._database.session() as session:
                    await session.run("keep_heartbeats", *columns(rows))


async def _pause(event: asyncio.Event, seconds: float) -> None:
    """Waits for the event, but no longer than this."""
    try:
        async with asyncio.timeout(seconds):
            _ = await event.wait()
    except TimeoutError:
        return


async def run(config: GatewayConfig, metrics: Metrics, stop: asyncio.Event) -> None:
    """Runs a worker as configured until `stop` is set. Raises StoreUnavailable if a store has no address yet."""
    options = config.billing
    redis = Redis(redis_url(config.stores), connections=options.connections + 1)
    try:
        async with Database(
            postgres_url(config.stores),
            WORKER,
            connections=options.connections + 2,
            statement_timeout=options.statement_timeout,
        ) as database:
            worker = Worker(
                redis, database, shards=config.usage.shards, options=options, metrics=metrics, clock=Clock()
            )
            await worker.run(stop)
    finally:
        await redis.close()
