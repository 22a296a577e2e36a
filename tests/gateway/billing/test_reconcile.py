"""Reconcile: silent when all agrees, and naming every kind of gap when it does not."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from gateway.billing.reconcile import Findings, reconcile
from gateway.billing.record import unpack
from gateway.clock import Clock
from gateway.config.composition import load
from gateway.config.configuration import GatewayConfig
from gateway.metering.event import UsageEvent, encode_event
from gateway.metering.segment import FINAL, encode_record
from gateway.metering.stream import GROUP, Heartbeat, stream_name
from tests.fixtures.configuration import HEAD, ROUTES
from tests.fixtures.postgres import fetch, run_sql
from tests.fixtures.usage import OTHER_SEGMENT, SEGMENT, event, frame
from tests.fixtures.valkey import redis, valkey, valkey_process

__all__ = ["redis", "valkey", "valkey_process"]

MINUTE_MICROS = 60_000_000


@pytest.fixture
def config(tmp_path, database_url, valkey) -> GatewayConfig:
    path = tmp_path / "gateway.yaml"
    path.write_text(
        f"{HEAD}{ROUTES}stores: {{redis: '{valkey.url}', postgres: '{database_url}'}}\n"
        f"usage: {{journal: {{directory: {tmp_path / 'journal'}}}}}\n"
    )
    return load(path, {})


def write_segment(config: GatewayConfig, events: list[UsageEvent | bytes], segment: str = SEGMENT) -> None:
    node, boot, sequence = segment.split("/")
    root = Path(config.usage.journal.directory)
    (root / boot).mkdir(parents=True, exist_ok=True)
    (root / "node").write_text(node)
    payloads = [item if isinstance(item, bytes) else encode_event(item) for item in events]
    records = [encode_record(FINAL, number, payload) for number, payload in enumerate(payloads)]
    (root / boot / f"{sequence}.segment").write_bytes(b"".join(records) + bytes(100))


async def look(config: GatewayConfig) -> Findings:
    return await reconcile(config, Clock())


async def book(intake, events, segment=SEGMENT, first=0):
    await intake.account(0, [unpack("0-1", frame(events, segment, first))])


async def test_nothing_at_all(config):
    assert list((await look(config)).lines()) == ["0 records accounted for, 0 booked", "no gaps"]


async def test_all_fates_in_order_are_no_gap(config, intake):
    used = event()
    events = [used, used, event(event_id=used.event_id, status=500), b"poison", event(millis=0)]
    write_segment(config, events)
    await book(intake, events)
    await intake.account(0, [unpack("0-1", b"no frame")])
    findings = await look(config)
    assert findings.gaps == findings.waiting == []
    assert list(findings.lines()) == [
        "5 records accounted for, 1 booked",
        "1 duplicate: the same event once more (table usage_duplicate)",
        "1 conflict: the id of a booked event, but saying something else (table event_conflict)",
        "1 dead letter: it can never be booked (table dead_letter)",
        "1 parked: older than retention, or ahead of the clock (table parked)",
        "1 poison: a stream held it, and no segment can account for it (table stream_poison)",
        "0 of the parked are booked since; `tallygate rebook` books what can be by now",
        "no gaps",
    ]


async def test_records_on_disk_wait_for_a_minute_and_are_a_gap_then(config, intake):
    old = time.time_ns() // 1000 - 2 * MINUTE_MICROS
    write_segment(config, [event(), event()])
    write_segment(config, [event(occurred_at=old), event(), event(occurred_at=old)], OTHER_SEGMENT)
    findings = await look(config)
    assert findings.waiting == [f"{SEGMENT}: 2 records on disk and not yet in the books"]
    (gap,) = findings.gaps
    assert gap.startswith(f"{OTHER_SEGMENT}: 2 records (number 0, 2) on disk for over a minute and not in the books")


async def test_a_record_that_says_something_else_on_disk(config, intake):
    write_segment(config, [event(), event()])
    await book(intake, [event()])
    (gap,) = (await look(config)).gaps
    assert gap == f"{SEGMENT}: 1 record (number 0) not the same in the journal and in the books"


async def test_a_hole_is_on_its_way_while_records_arrive_and_a_gap_when_they_do_not(config, intake, database_url):
    await book(intake, [event(), event()], first=3)
    findings = await look(config)
    assert findings.gaps == []
    assert findings.waiting == [f"{SEGMENT}: 3 of its first 5 records are not in the books"]
    await _age(database_url)
    findings = await look(config)
    assert findings.gaps == [f"{SEGMENT}: 3 of its first 5 records are not in the books"]


async def _age(url: str) -> None:
    """An hour passes for what is booked."""
    await run_sql(
        url,
        "alter table usage_event disable trigger usage_event_refuses_change",
        "update usage_event set received_at = received_at - interval '1 hour'",
    )


async def test_a_hole_in_a_segment_on_disk_is_reported_once(config, intake, database_url):
    events = [event(), event(), event()]
    write_segment(config, events)
    await book(intake, events[2:], first=2)
    await _age(database_url)
    findings = await look(config)
    assert findings.gaps == []
    assert len(findings.waiting) == 2


async def test_frames_in_the_streams_are_on_their_way(config, redis):
    await redis.append([(stream_name(shard), frame([event()])) for shard in (0, 0, 3)])
    await redis.ensure_group(stream_name(0), GROUP)
    await redis.read_group(GROUP, "worker", [stream_name(0)], count=1)
    findings = await look(config)
    assert findings.gaps == []
    assert findings.waiting == ["3 frames in the streams, 1 of them read and not acknowledged"]


async def test_streams_that_cannot_be_seen_are_a_gap(config, valkey):
    valkey.kill()
    (gap,) = (await look(config)).gaps
    assert gap.startswith("the streams could not be looked at")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("update segment_count set records = records + 1", f"{SEGMENT}: 2 records have a fate, but 3 were counted"),
        ("delete from segment_count", f"{SEGMENT}: 2 records have a fate, but 0 were counted"),
        ("update usage_hour set quantity = quantity + 1 where meter = 'requests'", "the roll-up 3 in 2"),
        ("delete from usage_hour where meter = 'requests'", "the events say 2 in 2 events, the roll-up 0 in 0"),
        (
            f"insert into dead_letter select '{SEGMENT}', 1, 0, 'x', '', payload_hash from usage_event limit 1",
            f"{SEGMENT}: 1 record too many: some have more than one fate",
        ),
    ],
)
async def test_books_that_were_tampered_with(config, intake, database_url, damage, expected):
    await book(intake, [event(), event()])
    assert (await look(config)).gaps == []
    await run_sql(database_url, damage)
    gaps = (await look(config)).gaps
    assert any(expected in gap for gap in gaps), gaps


async def test_an_event_booked_twice(config, intake, database_url):
    """Only without its unique keys can the table hold one; this is how such books are found out."""
    packed = [event(), event()]
    await run_sql(
        database_url,
        "alter table usage_event drop constraint usage_event_pkey, "
        "drop constraint usage_event_segment_number_event_day_key",
    )
    await book(intake, packed)
    await book(intake, packed)
    gaps = (await look(config)).gaps
    ids = await fetch(database_url, "select distinct event_id::text from usage_event")
    assert sorted(gap for gap in gaps if gap.startswith("event ")) == sorted(
        f"event {event_id} is booked 2 times" for (event_id,) in ids
    )
    assert f"{SEGMENT}: 2 records too many: some have more than one fate" in gaps


async def test_a_node_that_fell_silent_with_usage_on_its_disk(config, database_url):
    now = time.time_ns() // 1000
    beats = {
        "alive": Heartbeat(now - MINUTE_MICROS, now, 1, 10),
        "gone": Heartbeat(now - 9 * MINUTE_MICROS, now - 5 * MINUTE_MICROS, 1, 10),
        "gone-empty": Heartbeat(None, now - 5 * MINUTE_MICROS, 0, 0),
    }
    for node, beat in beats.items():
        since = f"to_timestamp({beat.oldest_unaccounted_at} / 1e6)" if beat.oldest_unaccounted_at else "null"
        await run_sql(
            database_url, f"insert into node values ('{node}', to_timestamp({beat.at} / 1e6), {since}, 1, 10)"
        )
    (gap,) = (await look(config)).gaps
    assert gap.startswith("node gone was last heard of 30")


async def test_a_hole_of_a_living_node_that_has_usage_to_send_is_on_its_way(config, intake, database_url):
    await book(intake, [event()], first=1)
    await _age(database_url)
    node = SEGMENT.split("/", maxsplit=1)[0]
    await run_sql(database_url, f"insert into node values ('{node}', now(), now(), 1, 10)")
    findings = await look(config)
    assert (findings.gaps, len(findings.waiting)) == ([], 1)


def test_many_gaps_are_cut_short():
    lines = list(Findings([f"number {at}" for at in range(30)], [], []).lines())
    assert lines[19:] == ["gap: number 19", "and 10 more gaps", "30 gaps"]
