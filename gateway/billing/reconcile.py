"""Reconcile: does what the journal holds, what the streams carry and what the books say agree? Every gap is named.

A gap is something that no working part will mend by itself. What is merely on its way is told apart from it: records
younger than a minute, entries in the streams.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from gateway.billing.database import READER, Connection, Database, Row
from gateway.clock import Clock
from gateway.config.configuration import GatewayConfig
from gateway.metering.directory import SegmentFile
from gateway.metering.segment import FINAL, SegmentReader, decode_payload
from gateway.metering.stream import GROUP, segment_name, stream_name
from gateway.metering.usage import open_directory
from gateway.stores.address import postgres_url, redis_url
from gateway.stores.redis import Redis
from gateway.stores.store import StoreUnavailable

PATIENCE_SECONDS: Final = 60
"""What is younger than this may still be on its way."""
_SHOWN: Final = 20
_STATEMENT_SECONDS: Final = 3600.0


_MEANING: Final = {
    "duplicate": "duplicate: the same event once more (table usage_duplicate)",
    "conflict": "conflict: the id of a booked event, but saying something else (table event_conflict)",
    "dead_letter": "dead letter: it can never be booked (table dead_letter)",
    "parked": "parked: older than retention, or ahead of the clock (table parked)",
    "poison": "poison: a stream held it, and no segment can account for it (table stream_poison)",
}


class Findings(NamedTuple):
    """What reconcile found: gaps, what is on its way, and totals; each a line to print."""

    gaps: list[str]
    waiting: list[str]
    totals: list[str]

    def lines(self) -> Iterator[str]:
        """The report."""
        yield from (f"gap: {gap}" for gap in self.gaps[:_SHOWN])
        if len(self.gaps) > _SHOWN:
            yield f"and {len(self.gaps) - _SHOWN} more gaps"
        yield from (f"on its way: {each}" for each in self.waiting)
        yield from self.totals
        yield f"{len(self.gaps)} gaps" if len(self.gaps) > 1 else "1 gap" if self.gaps else "no gaps"


async def reconcile(config: GatewayConfig, clock: Clock) -> Findings:
    """Compares this node's journal, the streams and the books.

    Raises DatabaseUnavailable, JournalUnusable, OSError, or StoreUnavailable if a store has no address yet. Streams
    that do not answer are a gap.
    """
    findings = Findings([], [], [])
    on_disk = _segments_on_disk(config)
    async with Database(
        postgres_url(config.stores), READER, connections=1, statement_timeout=_STATEMENT_SECONDS
    ) as database:
        async with database.session() as session:
            for name, file in on_disk.items():
                await _compare_segment(session, name, file, clock.micros(), findings)
        await _look_at_streams(config, findings)
        async with database.transaction(isolation="repeatable_read") as snapshot:
            await _check_books(snapshot, on_disk, findings)
    return findings


def _segments_on_disk(config: GatewayConfig) -> dict[str, SegmentFile]:
    if not Path(config.usage.journal.directory).exists():
        return {}  # a node without an edge
    directory = open_directory(config.usage)
    return {segment_name(directory.node, file.boot, file.sequence): file for file in directory.segments()}


async def _compare_segment(session: Connection, name: str, file: SegmentFile, now: int, findings: Findings) -> None:
    """Every final record of a segment on disk has its fate in the books, or is on its way there."""
    records: dict[int, tuple[bytes, int]] = {}
    try:
        for record in SegmentReader(file.path):
            if record.kind == FINAL:
                event = decode_payload(record.payload)
                records[record.number] = (sha256(record.payload).digest(), event.occurred_at if event else 0)
    except FileNotFoundError:
        return  # accounted for and deleted just now
    rows = await session.rows("fates_of_segment", name)
    fates = {row["number"]: row["payload_hash"] for row in rows}
    other = [number for number, (digest, _) in records.items() if fates.get(number, digest) != digest]
    if other:
        findings.gaps.append(f"{name}: {_numbers(other)} not the same in the journal and in the books")
    missing = {number: at for number, (_, at) in records.items() if number not in fates}
    old = [number for number, at in missing.items() if at < now - PATIENCE_SECONDS * 1_000_000]
    if old:
        findings.gaps.append(
            f"{name}: {_numbers(old)} on disk for over a minute and not in the books: is a worker running?"
        )
    elif missing:
        findings.waiting.append(f"{name}: {_records(len(missing))} on disk and not yet in the books")


async def _look_at_streams(config: GatewayConfig, findings: Findings) -> None:
    redis = Redis(redis_url(config.stores))
    try:
        states = await redis.stream_states([stream_name(shard) for shard in range(config.usage.shards)], GROUP)
    except StoreUnavailable as error:
        findings.gaps.append(f"the streams could not be looked at: {error}")
        return
    finally:
        await redis.close()
    entries = sum(state.length for state in states)
    if entries:
        pending = sum(state.pending for state in states)
        findings.waiting.append(f"{entries} frames in the streams, {pending} of them read and not acknowledged")


async def _check_books(snapshot: Connection, on_disk: Collection[str], findings: Findings) -> None:
    gaps = findings.gaps
    nodes = {row["node"]: row for row in await snapshot.rows("nodes")}
    gaps += _silent(nodes.values())
    for row in await snapshot.rows("doubled_events"):
        gaps.append(f"event {row['event_id']} is booked {row['times']} times")
    for row in await snapshot.rows("uneven_segments", PATIENCE_SECONDS):
        text = _uneven(row)
        expected = row["fates"] == row["places"] and (
            row["moving"] or row["segment"] in on_disk or _holds_usage(nodes.get(row["segment"].partition("/")[0]))
        )
        (findings.waiting if expected else gaps).append(text)
    for row in await snapshot.rows("miscounted_segments"):
        gaps.append(f"{row['segment']}: {row['fates']} records have a fate, but {row['counted']} were counted")
    for row in await snapshot.rows("wrong_hours"):
        place = "/".join((row["organization"], row["key"], row["route"], row["meter"]))
        gaps.append(
            f"{place} in the hour of {row['hour']:%Y-%m-%d %H:%M}: the events say {row['quantity']} in {row['events']} "
            f"events, the roll-up {row['rolled_quantity']} in {row['rolled_events']}"
        )
    await _sum_up(snapshot, findings)


async def _sum_up(snapshot: Connection, findings: Findings) -> None:
    totals = {row["fate"]: row["records"] for row in await snapshot.rows("fate_totals")}
    findings.totals.append(f"{sum(totals.values()):,} records accounted for, {totals.get('booked', 0):,} booked")
    totals["poison"] = await snapshot.value("poison_total")
    findings.totals.extend(f"{totals[fate]:,} {text}" for fate, text in _MEANING.items() if totals.get(fate))
    if totals.get("parked") or totals.get("dead_letter"):
        since = await snapshot.value("parked_and_booked_since")
        findings.totals.append(f"{since:,} of the parked are booked since; `tallygate rebook` books what can be by now")


def _uneven(row: Row) -> str:
    if row["fates"] != row["places"]:
        return f"{row['segment']}: {_records(row['fates'] - row['places'])} too many: some have more than one fate"
    return (
        f"{row['segment']}: {row['extent'] - row['places']} of its first {row['extent']} records are not in the books"
    )


def _silent(nodes: Iterable[Row]) -> Iterator[str]:
    for row in nodes:
        if row["silent_seconds"] > PATIENCE_SECONDS and row["oldest_unaccounted_at"] is not None:
            yield (
                f"node {row['node']} was last heard of {row['silent_seconds']:,} s ago and holds usage since "
                f"{row['oldest_unaccounted_at']:%Y-%m-%d %H:%M:%S}: start it again, or bring its journal elsewhere"
            )


def _holds_usage(node: Row | None) -> bool:
    """Whether a node is alive and says that it has usage to send."""
    return node is not None and node["silent_seconds"] <= PATIENCE_SECONDS and node["oldest_unaccounted_at"] is not None


def _numbers(numbers: list[int]) -> str:
    shown = ", ".join(str(number) for number in islice(numbers, 5))
    return f"{_records(len(numbers))} (number {shown}{', …' if len(numbers) > 5 else ''})"


def _records(count: int) -> str:
    return "1 record" if count == 1 else f"{count:,} records"
