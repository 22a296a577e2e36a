"""Rebooking: what was set aside and can be booked by now is booked once; what cannot be is said, with its reason."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gateway.billing.database import Database
from gateway.billing.intake import Intake
from gateway.billing.rebook import rebook
from gateway.billing.reconcile import reconcile
from gateway.billing.record import unpack
from gateway.clock import Clock
from gateway.config.composition import load
from gateway.config.configuration import GatewayConfig
from gateway.metrics import Metrics
from tests.fixtures.configuration import HEAD, ROUTES
from tests.fixtures.postgres import fetch, run_sql
from tests.fixtures.usage import event, frame, now_millis
from tests.fixtures.valkey import redis, valkey, valkey_process

__all__ = ["redis", "valkey", "valkey_process"]

HOUR_MILLIS = 3_600_000
QUANTITIES = "select organization, meter, quantity::bigint, events from usage_hour where meter = 'requests' order by 1"


class LaterClock(Clock):
    """The clock of an hour from now."""

    def micros(self) -> int:
        return super().micros() + HOUR_MILLIS * 1000


@pytest.fixture
def config(tmp_path, database_url, valkey) -> GatewayConfig:
    path = tmp_path / "gateway.yaml"
    path.write_text(
        f"{HEAD}{ROUTES}stores: {{redis: '{valkey.url}', postgres: '{database_url}'}}\n"
        f"usage: {{journal: {{directory: {tmp_path / 'journal'}}}}}\n"
    )
    return load(path, {})


async def is_even(config: GatewayConfig) -> bool:
    findings = await reconcile(config, Clock())
    return findings.gaps == findings.waiting == []


async def test_what_was_ahead_of_the_clock_is_booked_once(config, intake, database_url):
    ahead = [event(millis=now_millis() + HOUR_MILLIS // 2, organization=name) for name in ("acme", "acme", "brand")]
    await intake.account(0, [unpack("0-1", frame([*ahead, ahead[0]]))])
    assert await rebook(config, Clock()) == ["0 events booked", "4 left: more than 5 minutes ahead of the clock"]
    assert await fetch(database_url, QUANTITIES) == []
    assert await rebook(config, LaterClock()) == ["3 events booked"]
    assert await rebook(config, LaterClock()) == ["0 events booked"]
    assert await fetch(database_url, QUANTITIES) == [("acme", "requests", 2, 2), ("brand", "requests", 1, 1)]
    assert await is_even(config)
    lines = (await reconcile(config, Clock())).totals
    assert lines[-1] == "4 of the parked are booked since; `tallygate rebook` books what can be by now"


async def test_what_is_older_than_retention_is_booked_only_where_its_day_is_open(config, database, database_url):
    strict = Intake(database, Metrics(None), Clock(), retention=-1.0)
    await strict.account(0, [unpack("0-1", frame([event(), event(millis=0)]))])
    assert await rebook(config, Clock()) == [
        "1 event booked",
        "1 left: the day 1970-01-01 is archived, or so old that it may be",
    ]
    assert await is_even(config)


async def test_an_archived_day_is_booked_when_it_is_attached_again(config, intake, database_url):
    millis = now_millis() - 24 * HOUR_MILLIS
    day = datetime.fromtimestamp(millis / 1000, UTC).date()
    assert await intake.open_day(day)
    partition = f"usage_event_{day:%Y%m%d}"
    await run_sql(database_url, f"alter table usage_event detach partition {partition}")
    late = Intake(intake._database, Metrics(None), Clock(), retention=400 * 86400.0)
    await late.account(0, [unpack("0-1", frame([event(millis=millis)]))])
    assert (await rebook(config, Clock()))[1:] == [f"1 left: the day {day} is archived, or so old that it may be"]
    next_day = datetime.fromtimestamp(millis / 1000 + 86400, UTC).date()
    await run_sql(
        database_url,
        f"alter table usage_event attach partition {partition} for values from ('{day}') to ('{next_day}')",
    )
    assert await rebook(config, Clock()) == ["1 event booked"]
    assert await is_even(config)


async def test_what_postgresql_does_not_take_is_tried_once_more_and_then_left(config, intake, database_url):
    await intake.account(0, [unpack("0-1", frame([b"poison", event(organization="a\0b"), event()]))])
    letters = "select count(*) from dead_letter"
    assert await fetch(database_url, letters) == [(2,)]
    first, poison, refused = await rebook(config, Clock())
    assert (first, refused) == ("0 events booked", "1 left: PostgreSQL does not take them")
    assert poison.startswith("1 left: no usage event: ")
    assert await rebook(config, Clock()) == ["0 events booked", poison]
    assert await fetch(database_url, letters) == [(3,)]
    assert await is_even(config)


async def test_a_count_is_forgotten_when_retention_is_over_and_nothing_of_its_segment_is_left(
    intake: Intake, database: Database, database_url: str
) -> None:
    await intake.account(0, [unpack("0-1", frame([event()]))])
    await run_sql(
        database_url,
        """insert into segment_count
           select 'gone/0/' || n, 0, 1, now() - n * interval '1 day' from generate_series(1, 4) as n""",
        "update segment_count set updated_at = now() - interval '9 days' where segment not like 'gone%'",
    )
    async with database.session() as session:
        assert await session.value("forget_segments", 2.5 * 86400, 1) == 0, "one is looked at: that which has a record"
        assert await session.value("forget_segments", 2.5 * 86400, 10) == 2
        assert await session.value("forget_segments", 2.5 * 86400, 10) == 0
    left = await fetch(database_url, "select segment from segment_count where segment like 'gone%' order by 1")
    assert left == [("gone/0/1",), ("gone/0/2",)]
