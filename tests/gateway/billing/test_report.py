"""The table of an organization's usage."""

from __future__ import annotations

from datetime import date

from gateway.billing.database import READER, Database
from gateway.billing.record import unpack
from gateway.billing.report import lines_of
from tests.fixtures.usage import event, frame

DAY_MICROS = 86_400_000_000
NOON = 1_790_856_000_000_000  # 2026-10-01 12:00 UTC


async def table(url: str, *arguments: object) -> list[str]:
    async with Database(url, READER) as database, database.session() as session:
        return lines_of(await session.rows("usage_of_organization", *arguments), str(arguments[1]))


async def test_a_table_by_day_route_and_key(intake, database_url):
    events = [
        event(occurred_at=NOON + day * DAY_MICROS, route=route, key=key, quantities=quantities)
        for day, route, key, quantities in (
            (0, "agents", "k1", {"requests": 1, "tokens": 1200}),
            (0, "books", "k2", {"requests": 1}),
            (1, "agents", "k2", {"requests": 1, "tokens": 34}),
            (2, "agents", "k1", {"requests": 1}),
        )
    ]
    events.append(event(organization="other", occurred_at=NOON, quantities={"requests": 99}))
    await intake.account(0, [unpack("0-1", frame(events))])
    assert await table(database_url, "acme", "day", None, None) == [
        "day         requests  tokens",
        "2026-10-01         2   1,200",
        "2026-10-02         1      34",
        "2026-10-03         1       0",
        "total              4   1,234",
    ]
    assert await table(database_url, "acme", "route", date(2026, 10, 1), date(2026, 10, 2)) == [
        "route   requests  tokens",
        "agents         2   1,234",
        "books          1       0",
        "total          3   1,234",
    ]
    assert await table(database_url, "acme", "key", date(2026, 10, 2), None) == [
        "key    requests  tokens",
        "k1            1       0",
        "k2            1      34",
        "total         2      34",
    ]


async def test_a_day_is_a_day_of_utc_to_its_last_microsecond(intake, database_url):
    midnight = NOON + DAY_MICROS // 2
    events = [event(occurred_at=midnight + offset, quantities={"requests": 1}) for offset in (-1, 0)]
    await intake.account(0, [unpack("0-1", frame(events))])
    assert await table(database_url, "acme", "day", date(2026, 10, 1), date(2026, 10, 1)) == [
        "day         requests",
        "2026-10-01         1",
        "total              1",
    ]
