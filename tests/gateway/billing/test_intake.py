"""Intake on a real PostgreSQL: every fate, once each, whatever comes again and in whatever order."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from datetime import UTC, datetime

import asyncpg
import pytest

from gateway.billing.batch import Accounted
from gateway.billing.database import Database
from gateway.billing.intake import Intake
from gateway.billing.record import Fate, unpack
from gateway.clock import uuid_text
from gateway.metering.event import VERSION, Frame, encode_event, encode_frame
from tests.fixtures.postgres import fetch, run_sql
from tests.fixtures.usage import OTHER_SEGMENT, SEGMENT, event, frame, now_millis

DAY_MILLIS = 86_400_000


async def account(intake: Intake, *frames: bytes, shard: int = 3) -> Accounted:
    return await intake.account(shard, [unpack(f"{at}-0", packed) for at, packed in enumerate(frames)])


def counted(accounted: Accounted) -> dict[Fate, int]:
    return {fate: count for fate, count in accounted.fates.items() if count}


async def hours(url: str) -> list[tuple[object, ...]]:
    return await fetch(
        url, "select organization, key, route, meter, quantity::bigint, events from usage_hour order by 4"
    )


async def test_an_event_becomes_a_row_with_all_it_says(intake, database_url):
    used = event(quantities={"requests": 1, "tokens": 2**62}, model="m", outcome="client_gone", status=499)
    accounted = await account(intake, frame([used]))
    assert accounted.counts == {SEGMENT: 1}
    assert counted(accounted) == {Fate.BOOKED: 1}
    query = """select event_id::text, segment, number, kind, organization, model, status, outcome, quantities::text,
      (extract(epoch from admitted_at) * 1000000)::bigint, (extract(epoch from occurred_at) * 1000000)::bigint,
      event_day from usage_event"""
    (row,) = await fetch(database_url, query)
    assert row == (
        *(uuid_text(used.event_id), SEGMENT, 0, "usage", "acme", "m", 499, "client_gone"),
        '{"tokens": 4611686018427387904, "requests": 1}',
        *(used.admitted_at, used.occurred_at, datetime.fromtimestamp(used.admitted_at / 1e6, UTC).date()),
    )
    assert await hours(database_url) == [
        ("acme", "key_1", "agents", "requests", 1, 1),
        ("acme", "key_1", "agents", "tokens", 2**62, 1),
    ]


async def test_a_replay_changes_nothing_and_returns_the_count_again(intake, database_url):
    packed = frame([event(), event()])
    await account(intake, packed)
    before = await hours(database_url)
    accounted = await account(intake, packed, packed)
    assert accounted.counts == {SEGMENT: 2}
    assert counted(accounted) == {Fate.REPLAY: 4}
    assert await hours(database_url) == before


async def test_the_same_event_at_another_place_is_a_duplicate_counted_once(intake, database_url):
    used = event()
    accounted = await account(intake, frame([used, used]), frame([used], OTHER_SEGMENT))
    assert accounted.counts == {SEGMENT: 2, OTHER_SEGMENT: 1}
    assert counted(accounted) == {Fate.BOOKED: 1, Fate.DUPLICATE: 2}
    again = await account(intake, frame([used], OTHER_SEGMENT), frame([used, used]))
    assert again.counts == accounted.counts
    assert counted(again) == {Fate.REPLAY: 3}
    assert await fetch(database_url, "select segment, number from usage_duplicate order by 1, 2") == [
        (SEGMENT, 1),
        (OTHER_SEGMENT, 0),
    ]


async def test_the_same_id_saying_something_else_is_a_conflict_that_is_kept(intake, database_url, metrics):
    used = event()
    other = event(event_id=used.event_id, quantities={"requests": 100})
    for _ in range(2):
        accounted = await account(intake, frame([used]), frame([other], OTHER_SEGMENT))
    assert accounted.counts == {SEGMENT: 1, OTHER_SEGMENT: 1}
    assert await fetch(database_url, "select segment, number, payload from event_conflict") == [
        (OTHER_SEGMENT, 0, encode_event(other))
    ]
    assert (await hours(database_url))[1][4] == 1
    family = metrics.counter(
        "tallygate_billing_records_total", "Records accounted for, by what became of them.", ("fate",)
    )
    assert family.labels("conflict").value == 1


@pytest.mark.parametrize(
    "poison",
    [
        b"",
        b"\xc1",
        b"no event",
        encode_event(event(event_id=b"short")),
        encode_event(event(event_id=bytes(16))),
        encode_event(event(version=VERSION + 1)),
        encode_event(event(ref=bytes(16))),
        encode_event(event(kind="cancel")),
        encode_event(event(quantities={"requests": 2**63})),
        encode_event(event(quantities={"requests": -1})),
        encode_event(event(organization="a\0b")),
        encode_event(event(quantities={"a\0b": 1})),
        encode_event(event(status=70_000)),
        encode_event(event(occurred_at=2**62)),
        encode_event(event(organization=os.urandom(1500).hex())),  # more than an index takes
        encode_event(event(quantities={os.urandom(1500).hex(): 1})),
    ],
    ids=range(16),
)
async def test_poison_is_set_aside_alone(intake, database_url, poison):
    """Whatever is wrong with it, and wherever in the batch it stands: the others are booked."""
    for at in (0, 3, 6):
        segment = f"{SEGMENT[:-1]}{at}"
        sound = [event() for _ in range(6)]
        packed = frame([*sound[:at], poison, *sound[at:]], segment)
        accounted = await account(intake, packed)
        assert counted(accounted) == {Fate.BOOKED: 6, Fate.DEAD_LETTER: 1}
        assert accounted.counts == {segment: 7}
        assert counted(await account(intake, packed)) == {Fate.REPLAY: 7}


async def test_many_poisoned_records_in_one_batch(intake):
    events = [event(organization="\0" if at % 3 == 0 else "acme") for at in range(300)]
    accounted = await account(intake, frame(events))
    assert counted(accounted) == {Fate.BOOKED: 200, Fate.DEAD_LETTER: 100}


@pytest.mark.parametrize(("offset", "reason"), [(-401 * DAY_MILLIS, "older"), (400_000, "ahead")])
async def test_an_event_out_of_reach_is_parked_and_stays_so(intake, database, metrics, database_url, offset, reason):
    packed = frame([event(millis=now_millis() + offset), event()])
    accounted = await account(intake, packed)
    assert counted(accounted) == {Fate.BOOKED: 1, Fate.PARKED: 1}
    ((why,),) = await fetch(database_url, "select reason from parked")
    assert reason in why

    class Later:
        def micros(self) -> int:
            return (now_millis() + offset) * 1000

        def monotonic(self) -> float:
            return 0.0

    # Seen again when it is within reach, it keeps the fate it has.
    again = await Intake(database, metrics, Later(), retention=400 * 86400.0).account(3, [unpack("9-0", packed)])
    assert again.counts == {SEGMENT: 2}
    assert again.fates[Fate.REPLAY] == 2


async def test_a_booked_record_is_not_parked_when_it_comes_again_too_late(intake, database, metrics):
    packed = frame([event()])
    await account(intake, packed)
    impatient = Intake(database, metrics, intake._clock, retention=-60.0)
    assert counted(await account(impatient, packed)) == {Fate.REPLAY: 1}


async def test_a_day_that_is_archived_parks_its_late_events(intake, database, database_url, metrics):
    used = event()
    day = datetime.fromtimestamp(used.admitted_at / 1e6, UTC).date()
    await account(intake, frame([used]))
    await run_sql(database_url, f"alter table usage_event detach partition usage_event_{day:%Y%m%d}")
    fresh = Intake(database, metrics, intake._clock, retention=86400.0)
    assert counted(await account(fresh, frame([event()], OTHER_SEGMENT))) == {Fate.PARKED: 1}


async def test_what_is_no_record_of_a_segment_is_kept_and_not_counted(intake, database_url):
    packed = encode_event(event())
    odd = [
        b"",
        b"no frame",
        encode_frame(Frame(VERSION, "somewhere else", [0], [packed])),
        encode_frame(Frame(VERSION, SEGMENT, [0, 1], [packed])),
        encode_frame(Frame(VERSION, SEGMENT, [-1], [packed])),
        encode_frame(Frame(VERSION + 1, SEGMENT, [0], [packed])),
    ]
    accounted = await account(intake, *odd, frame([event()]))
    assert accounted.counts == {SEGMENT: 1}
    assert accounted.poison == len(odd)
    assert (await account(intake, *odd)).poison == 0
    assert await fetch(database_url, "select count(*) from stream_poison") == [(len(odd),)]


@pytest.mark.parametrize("first", ["booked", "dead letter"])
async def test_a_taken_place_is_not_given_to_another_record(intake, database_url, first):
    await account(intake, frame([event() if first == "booked" else b"poison"]))
    accounted = await account(intake, frame([event()]), frame([b"other poison"]))
    assert accounted.counts == {SEGMENT: 1}
    assert accounted.poison == 2
    assert (await account(intake, frame([b"yet another"]))).counts == {SEGMENT: 1}
    assert await fetch(database_url, "select count(*) from usage_event") == [(1 if first == "booked" else 0,)]


async def test_a_cancel_takes_an_event_back_whichever_comes_first(intake, database_url):
    kept, taken = event(), event(quantities={"requests": 1, "tokens": 70})
    cancel = event(kind="cancel", ref=taken.event_id)
    again = event(kind="cancel", ref=taken.event_id)
    foreign = event(kind="cancel", ref=kept.event_id, organization="other")
    late = event(quantities={"tokens": 5})
    early = event(kind="cancel", ref=late.event_id)
    await account(intake, frame([kept, taken, early, foreign]))
    await account(intake, frame([cancel, late, again], first=4))
    assert await hours(database_url) == [
        ("acme", "key_1", "agents", "bytes_out", 512, 1),
        ("acme", "key_1", "agents", "requests", 1, 1),
        ("acme", "key_1", "agents", "tokens", 0, 0),
    ]


async def test_an_amend_adds_to_its_hour_without_being_an_event(intake, database_url):
    used = event(quantities={"tokens": 100})
    await account(intake, frame([used, event(kind="amend", ref=used.event_id, quantities={"tokens": -30})]))
    assert await hours(database_url) == [("acme", "key_1", "agents", "tokens", 70, 1)]


async def test_two_workers_on_one_shard_count_each_record_once(intake, database, database_url, metrics):
    other = Intake(database, metrics, intake._clock, retention=86400.0)
    packed = [frame([event() for _ in range(20)], first=at * 20) for at in range(10)]
    one = [account(intake, each) for each in packed]
    two = [account(other, each) for each in reversed(packed)]
    outcomes = await asyncio.gather(*one, *two)
    totals = sum((outcome.fates for outcome in outcomes), Counter())
    assert totals[Fate.BOOKED] == totals[Fate.REPLAY] == 200
    assert max(outcome.counts[SEGMENT] for outcome in outcomes) == 200
    assert await fetch(database_url, "select records from segment_count") == [(200,)]


async def test_nothing_to_account_for(intake):
    accounted = await account(intake)
    assert (accounted.counts, +accounted.fates, accounted.poison) == ({}, Counter(), 0)


async def test_an_event_of_a_day_whose_partition_vanished_is_tried_again(intake, database_url):
    used = event()
    await account(intake, frame([used]))
    day = datetime.fromtimestamp(used.admitted_at / 1e6, UTC).date()
    await run_sql(database_url, f"drop table usage_event_{day:%Y%m%d}")
    with pytest.raises(Exception, match="no partition"):
        await account(intake, frame([event()], OTHER_SEGMENT))
    assert counted(await account(intake, frame([event()], OTHER_SEGMENT))) == {Fate.BOOKED: 1}


async def test_the_books_refuse_change_even_to_their_owner(intake, database_url):
    await account(intake, frame([event()]), frame([b"poison"], OTHER_SEGMENT))
    tables = await fetch(
        database_url, "select tablename from pg_tables where tablename ~ '^usage_event_|^dead_letter$'"
    )
    for table in ["usage_event", *(name for (name,) in tables)]:
        for statement in (f"delete from {table}", f"update {table} set segment = ''", f"truncate {table}"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
                await run_sql(database_url, statement)


async def test_the_worker_acts_as_a_role_that_may_only_add(database: Database, intake, database_url):
    await account(intake, frame([event()]))
    async with database.session() as session:
        assert await session.raw.fetchval("select current_user") == "tallygate_worker"
        assert not await session.raw.fetchval(
            "select rolsuper or rolcanlogin from pg_roles where rolname = current_user"
        )
        day = datetime.now(UTC).date()
        for table in ("usage_event", f"usage_event_{day:%Y%m%d}", "dead_letter", "event_conflict", "segment_count"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied"):
                await session.raw.execute(f"delete from {table}")
        for table in ("usage_event", "usage_duplicate", "parked"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied"):
                await session.raw.execute(f"update {table} set segment = ''")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await session.raw.execute("create table mine ()")
