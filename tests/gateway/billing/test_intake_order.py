"""Any order, batching and repetition of the same records gives the same books; without the unique keys it does not."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.billing.database import WORKER, Database
from gateway.billing.intake import Intake
from gateway.billing.record import unpack
from gateway.clock import Clock
from gateway.metering.event import UsageEvent
from gateway.metrics import Metrics
from tests.fixtures.postgres import PostgresServer, fetch, run_sql
from tests.fixtures.usage import SEGMENT, event, frame

Placed = tuple[str, int, UsageEvent | bytes]


@st.composite
def histories(draw: st.DrawFn) -> list[Placed]:
    """Records of a few segments: uses, their cancels and amends, the same events at other places, and poison."""
    uses = [
        event(
            organization=f"org_{at % 2}",
            key=f"key_{at % 3}",
            quantities={"requests": 1, "tokens": draw(st.integers(0, 9))},
        )
        for at in range(draw(st.integers(1, 6)))
    ]
    written: list[UsageEvent | bytes] = [*uses]
    for used in draw(st.lists(st.sampled_from(uses), max_size=4)):
        kind = draw(st.sampled_from(["cancel", "amend"]))
        written.append(event(kind=kind, ref=used.event_id, organization=used.organization, quantities={"tokens": 7}))
    written += draw(st.lists(st.sampled_from(uses), max_size=3))
    written += [b"poison"] * draw(st.integers(0, 2))
    segments = [f"{SEGMENT[:-1]}{at}" for at in range(3)]
    numbers = dict.fromkeys(segments, 0)
    placed = []
    for item in written:
        segment = draw(st.sampled_from(segments))
        placed.append((segment, numbers[segment], item))
        numbers[segment] += 1
    return placed


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[Placed], list[list[Placed]]]:
    """A history, and a way in which it is delivered: in batches, in disorder, parts of it several times."""
    history = draw(histories())
    repeated = history + draw(st.lists(st.sampled_from(history), max_size=8))
    shuffled = draw(st.permutations(repeated))
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(shuffled) - 1)), max_size=4)))
    return history, [shuffled[start:end] for start, end in zip([0, *cuts], [*cuts, len(shuffled)], strict=True)]


async def books(url: str, batches: Sequence[Sequence[Placed]]) -> list[list[tuple[object, ...]]]:
    """What the books say after these batches. Which of several places of one event is its row's is left open."""
    async with Database(url, WORKER) as database:
        intake = Intake(database, Metrics(None), Clock(), retention=86400.0)
        for batch in batches:
            frames = [frame([item], segment, number) for segment, number, item in batch]
            await intake.account(0, [unpack(str(at), packed) for at, packed in enumerate(frames)])
    return [
        await fetch(url, "select event_id::text, kind, organization, quantities::text from usage_event order by 1"),
        await fetch(
            url,
            """select organization, key, route, meter, hour, quantity::bigint, events from usage_hour
               where quantity <> 0 or events <> 0 order by 1, 2, 3, 4, 5""",
        ),
        await fetch(url, "select segment, shard, records from segment_count order by 1"),
        await fetch(url, "select segment, number from record_fate order by 1, 2"),
        await fetch(url, "select fate, count(*) from record_fate group by fate order by 1"),
    ]


async def in_fresh_database(
    server: PostgresServer, batches: Sequence[Sequence[Placed]], *changes: str
) -> list[list[tuple[object, ...]]]:
    name = server.fresh_name()
    await run_sql(server.url(), f"create database {name} template template")
    try:
        await run_sql(server.url(name), *changes)
        return await books(server.url(name), batches)
    finally:
        await run_sql(server.url(), f"drop database {name} with (force)")


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(deliveries())
def test_order_batching_and_repetition_do_not_matter(postgres_server, delivery):
    history, batches = delivery
    plain = asyncio.run(in_fresh_database(postgres_server, [history]))
    assert asyncio.run(in_fresh_database(postgres_server, batches)) == plain
    places = [(segment, number) for segment, number, _ in history]
    assert plain[3] == sorted(places)
    assert sum(records for _, _, records in plain[2]) == len(places)


def test_without_the_unique_keys_a_replay_is_billed_twice(postgres_server):
    """The control: the keys of usage_event are what keeps usage from doubling."""
    history: list[Placed] = [(SEGMENT, at, event(key="k")) for at in range(10)]
    random.shuffle(history)
    without_keys = "alter table usage_event drop constraint usage_event_pkey, drop constraint {}"
    guarded = asyncio.run(in_fresh_database(postgres_server, [history, history]))
    unguarded = asyncio.run(
        in_fresh_database(
            postgres_server, [history, history], without_keys.format("usage_event_segment_number_event_day_key")
        )
    )
    assert len(guarded[0]) == 10
    assert len(unguarded[0]) == 20
    assert [quantity for *_, quantity, _ in guarded[1]] == [5120, 10]
    assert [quantity for *_, quantity, _ in unguarded[1]] == [10240, 20]
