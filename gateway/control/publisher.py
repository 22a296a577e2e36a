"""Publisher: brings what has changed in PostgreSQL to Redis, where the edge looks, in well under a second.

Every change leaves a row in the outbox, in its own transaction. One publisher at a time (an advisory lock) takes them
in order, reads what is there now, writes it with a script that also tells the edge, and then forgets the rows. Whatever
dies in between, it is done again, and doing it twice does no harm. Where Redis does not hold what was published last,
all of it is written anew (`projecting.py`).

A change that concerns many keys rewrites them a batch at a time. What else has changed is published in between: nobody
who is revoked has to wait for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias

from gateway import projection
from gateway.clock import Clock
from gateway.control.ageing import Ageing
from gateway.control.projecting import CHECKED_AT_ONCE, Lost, Place, project, repair
from gateway.control.records import Roles, key_record, organization_record
from gateway.metrics import Metrics
from gateway.postgres import Connection, Database, DatabaseUnavailable, Retry, Row
from gateway.projection import Change, ChangeKind
from gateway.stores.redis import Redis
from gateway.stores.store import StoreUnavailable

_log: Final = logging.getLogger(__name__)

CHANNEL: Final = "tallygate_outbox"
"""Where PostgreSQL notifies of a change that was committed."""
_LOOK_SECONDS: Final = 0.5
"""How often Redis is looked at, and the outbox in case a notification got lost."""
_LONGEST_BACKOFF: Final = 0.5
_ROWS: Final = 1000
"""Rows of the outbox taken at once."""
_IDS: Final = 100
"""Keys or organizations that one change names."""
_DEEPEST: Final = 3
"""Rewritings of many keys that can be under way at once, each let pass by the one before it."""

Write: TypeAlias = tuple[str, bytes, bytes]
"""A hash, a field, and its value; an empty one takes the field away."""
Telling: TypeAlias = tuple[ChangeKind, tuple[str, ...]]
"""The kind of a change and its ids."""


class Publisher:
    """Publishes until it is stopped; `run` once. `batch` is how many keys one step writes."""

    def __init__(
        self, database: Database, redis: Redis, ageing: Ageing, *, metrics: Metrics, clock: Clock, batch: int
    ) -> None:
        """`database` acts as `PUBLISHER`."""
        self._database = database
        self._redis = redis
        self._clock = clock
        self._batch = batch
        self._ageing = ageing
        self._rewritings = 0
        self._wake = asyncio.Event()
        self._place = Place("", 0)
        self._bucket = 0
        self._changes = metrics.counter(
            "tallygate_control_changes_published_total", "Changes that were published to the edge."
        )
        self._projections = metrics.counter(
            "tallygate_control_projections_total", "Times that everything was written to Redis anew."
        )
        self._repairs = metrics.counter(
            "tallygate_control_repairs_total", "Hashes in Redis that had lost something and were written anew."
        )
        self._failures = metrics.counter(
            "tallygate_control_publishing_failures_total", "Times that publishing had to be tried again.", ("store",)
        )
        self._oldest = metrics.gauge(
            "tallygate_control_unpublished_seconds", "Age of the oldest change that is not published yet."
        )
        self._delay = metrics.histogram(
            "tallygate_control_publishing_seconds", "Time from a change to its publication."
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Publishes until `stop` is set. One of several that run publishes, the others wait for its end."""
        failures = 0
        while not stop.is_set():
            try:
                async with self._database.session() as session:
                    if await session.value("lock_publishing"):
                        async with session.listening(CHANNEL, self._wake.set):
                            await self._publish(session, stop)
                failures = 0
            except (DatabaseUnavailable, Retry, StoreUnavailable) as error:
                failures += 1
                self._failures.labels("redis" if isinstance(error, StoreUnavailable) else "postgres").inc()
                if failures == 1:
                    _log.warning("publishing to the edge waits: %s", error)
            except Exception as error:  # noqa: BLE001 - a bug, or a schema that is not ours: the rows stay where they are
                failures += 1
                self._failures.labels("none").inc()
                if failures == 1:
                    _log.error("publishing to the edge fails", exc_info=error)
            await _pause(stop, min(_LONGEST_BACKOFF, 0.1 * 2.0 ** min(failures, 10)) if failures else _LOOK_SECONDS)

    async def _publish(self, session: Connection, stop: asyncio.Event) -> None:
        """For as long as this session, and the lock with it, lasts."""
        (row,) = await session.rows("publication")
        self._place = Place(row["generation"], row["sequence"])
        while not stop.is_set():
            self._wake.clear()
            rows = await self._waiting(session)
            try:
                await self._look(session)
                while rows:
                    async with session.atomic():
                        await self._publish_rows(session, rows)
                    rows = await self._waiting(session)
            except Lost:
                await self._project(session)
                continue
            await self._ageing.forget(session)
            await _pause(self._wake, _LOOK_SECONDS)

    async def _waiting(self, session: Connection) -> list[Row]:
        """The oldest rows of the outbox."""
        rows = await session.rows("outbox", _ROWS)
        if not self._rewritings:
            self._oldest.set(max(0.0, self._clock.micros() / 1e6 - rows[0]["created_at"]) if rows else 0.0)
        return rows

    async def _project(self, session: Connection) -> None:
        try:
            self._place = await project(session, self._redis, self._clock, self._batch)
        except Lost:
            raise StoreUnavailable("Redis lost what was being written anew") from None
        self._projections.inc()

    async def _look(self, session: Connection) -> None:
        """Whether Redis holds what was published last. Raises Lost.

        It may be ahead: we were cut off before we could note it, and shall repeat it. Some of the hashes are looked at
        in turn, and repaired, in case the server was told to evict what it should not.
        """
        fields = ["generation", "complete", "sequence"]
        generation, complete, sequence = await self._redis.hash_values(projection.STATE, fields)
        there = Place((generation or b"").decode(), int(sequence or 0))
        if complete != b"1" or there.generation != self._place.generation or there.sequence < self._place.sequence:
            raise Lost
        self._place = there
        self._repairs.inc(await repair(session, self._redis, self._place, self._bucket))
        self._bucket = (self._bucket + CHECKED_AT_ONCE) % projection.BUCKETS

    async def _publish_rows(self, session: Connection, rows: list[Row]) -> None:
        """In a transaction: at its end they are forgotten."""
        await session.run("forget_published", [row["id"] for row in rows])
        await self._publish_keys(session, rows)
        await self._publish_revocations(session, rows)
        await self._publish_organizations(session, rows)
        await session.run("keep_publication", self._place.generation, self._place.sequence)
        now = self._clock.micros() / 1e6
        for row in rows:
            self._delay.observe(max(0.0, now - row["created_at"]))

    async def _publish_keys(self, session: Connection, rows: list[Row]) -> None:
        """Keys that have changed themselves, or with their user or service account."""
        secrets = dict.fromkeys(row["digest"] for row in rows if row["digest"] is not None)
        await self._write_keys(session, list(secrets), told=True)
        for query, *arguments in (
            ("digests_of_keys", *_places(rows, "api_key")),
            ("digests_of_users", *_places(rows, "user_account", "membership")),
            ("digests_of_service_accounts", *_places(rows, "service_account")),
        ):
            if arguments[0]:
                async for found in session.batches(query, *arguments, size=self._batch):
                    await self._write_keys(session, [row["digest"] for row in found], told=True)

    async def _publish_organizations(self, session: Connection, rows: list[Row]) -> None:
        """Organizations that have changed, their roles or subscription; and then their keys, of which no one is named.

        What an organization is comes first, and is told at once: rewriting its keys may take a while.
        """
        names = {row["organization"] for row in rows if row["kind"] in ("organization", "subscription", "role")}
        await self._write_organizations(session, sorted(names))
        everywhere = [row["name"] for row in rows if row["kind"] == "global_role"]
        if everywhere:
            async for found in session.batches("all_organizations", size=self._batch):
                await self._write_organizations(session, [row["name"] for row in found])
        whole = {row["organization"] for row in rows if row["kind"] in ("organization", "subscription")}
        roles = _places([row for row in rows if row["organization"] not in whole], "role")
        rewritten = False
        for query, *arguments in (
            ("digests_of_organizations", list(whole)),
            ("digests_of_roles", *roles),
            ("digests_of_global_roles", everywhere),
        ):
            if arguments[0]:
                rewritten |= await self._rewrite_keys(session, query, arguments)
        if rewritten:
            await self._send([], [("all", ())] if everywhere else _told("organization", sorted(names)))

    async def _rewrite_keys(self, session: Connection, query: str, arguments: Sequence[object]) -> bool:
        """Writes the keys with these SHA-256s, each batch as it is by then. Returns whether there is any."""
        rewritten = False
        self._rewritings += 1
        try:
            async for found in session.batches(query, *arguments, size=self._batch):
                await self._write_keys(session, [row["digest"] for row in found], told=False)
                rewritten = True
                if self._rewritings < _DEEPEST and (waiting := await self._waiting(session)):
                    await self._publish_rows(session, waiting)
        finally:
            self._rewritings -= 1
        return rewritten

    async def _write_organizations(self, session: Connection, every: list[str]) -> None:
        for names in _chunks(every):
            await self._write_some_organizations(session, names)

    async def _write_some_organizations(self, session: Connection, names: list[str]) -> None:
        roles = Roles.of(await session.rows("roles_of_organizations", names))
        found = {row["name"]: row for row in await session.rows("organizations", names)}
        writes = []
        for name in names:
            digest = projection.name_digest(name)
            value = projection.encode(organization_record(found[name], roles)) if name in found else b""
            writes.append((projection.organizations_key(digest), digest, value))
        await self._send(writes, _told("organization", names))

    async def _write_keys(self, session: Connection, digests: list[bytes], *, told: bool) -> None:
        """Writes the keys with these SHA-256s as they are now, or takes them away; `told`: and names each of them."""
        if not digests:
            return
        found = await session.rows("secrets_of_digests", digests)
        organizations = list({row["organization"] for row in found})
        roles = Roles.of(await session.rows("roles_of_organizations", organizations))
        values = {row["digest"]: projection.encode(key_record(row, roles)) for row in found}
        writes = [(projection.keys_key(digest), digest, values.get(digest, b"")) for digest in digests]
        await self._send(writes, _told("key", [digest.hex() for digest in digests]) if told else [])

    async def _publish_revocations(self, session: Connection, rows: list[Row]) -> None:
        tokens = [row["name"] for row in rows if row["kind"] == "token_revocation"]
        if not tokens:
            return
        found = {row["token"]: row["expires_at"] for row in await session.rows("revocations_named", tokens)}
        writes = [
            (projection.REVOKED, token.encode(), str(found[token]).encode() if token in found else b"")
            for token in tokens
        ]
        ends = tuple(found.get(token, 0) for token in tokens)
        await self._send(writes, [("revocation", tuple(tokens))], ends)

    async def _send(self, writes: Sequence[Write], told: Iterable[Telling], ends: tuple[int, ...] = ()) -> None:
        """Writes and tells, all or nothing. Raises Lost."""
        changes = [
            Change(sequence=self._place.sequence + number, kind=kind, ids=ids, expires_at=ends)
            for number, (kind, ids) in enumerate(told, 1)
        ]
        if not writes and not changes:
            return
        keys, arguments = projection.publish_arguments(*self._place, writes, changes)
        sequence = await self._redis.run(projection.PUBLISH, keys, arguments)
        if sequence < 0:
            raise Lost
        self._place = Place(self._place.generation, sequence)
        self._changes.inc(len(changes))


def _places(rows: Iterable[Row], *kinds: str) -> tuple[list[str], list[str]]:
    """Organizations and names of the rows of these kinds."""
    found = sorted({(row["organization"], row["name"]) for row in rows if row["kind"] in kinds})
    return [organization for organization, _ in found], [name for _, name in found]


def _chunks(ids: list[str]) -> Iterator[list[str]]:
    return (ids[at : at + _IDS] for at in range(0, len(ids), _IDS))


def _told(kind: ChangeKind, ids: list[str]) -> list[Telling]:
    return [(kind, tuple(chunk)) for chunk in _chunks(ids)]


async def _pause(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            _ = await event.wait()
    except TimeoutError:
        return
