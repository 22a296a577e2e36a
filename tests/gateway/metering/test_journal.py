from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.metering.event import UsageEvent, decode_event
from gateway.metering.journal import JournalOptions
from gateway.metering.segment import (
    LARGEST_PAYLOAD,
    STARTED,
    SegmentReader,
)
from gateway.problem import JournalFull
from tests.gateway.metering.bench import PER_SEGMENT, SEGMENT, Bench, large
from tests.gateway.metering.conftest import HandClock, MakeEvent, until


@pytest.fixture
def bench(tmp_path: Path, clock: HandClock) -> Iterator[Bench]:
    bench = Bench(tmp_path / "journal", clock=clock)
    yield bench
    bench.boot.close()


async def test_an_appended_event_is_in_the_file_and_handed_on(bench: Bench, make_event: MakeEvent) -> None:
    events = [make_event() for _ in range(3)]
    assert [bench.write(event) for event in events] == [None] * 3
    assert bench.events() == events
    assert [(name, number) for name, number, _ in bench.shipped] == [(bench.segment.name, n) for n in range(3)]
    assert os.stat(bench.files()[0]).st_size == SEGMENT, "its space is reserved"
    await bench.journal.finish()
    assert os.stat(bench.files()[0]).st_size == bench.closed[0].position, "and given back"
    assert bench.events() == events
    with pytest.raises(JournalFull):
        bench.journal.reserve()


async def test_an_event_that_is_too_large_is_refused(bench: Bench, make_event: MakeEvent) -> None:
    fits = large(make_event)
    bench.write(fits)
    bench.journal.reserve()
    with pytest.raises(ValueError, match="4097 bytes"):
        bench.journal.append(large(make_event, LARGEST_PAYLOAD + 1))
    assert bench.events() == [fits]
    await bench.journal.finish()


async def test_it_goes_on_to_the_next_segment(bench: Bench, make_event: MakeEvent) -> None:
    events = [large(make_event) for _ in range(3 * PER_SEGMENT)]
    for event in events:
        bench.write(event)
    assert bench.events() == events
    assert [segment.finals for segment in bench.closed] == [PER_SEGMENT] * 2
    numbers = [number for _, number, _ in bench.shipped]
    assert numbers == [*range(PER_SEGMENT)] * 3
    await bench.journal.finish()


async def test_a_full_journal_refuses_before_and_never_after(bench: Bench, make_event: MakeEvent) -> None:
    admitted = 8 * PER_SEGMENT // 2
    for _ in range(admitted):
        bench.journal.reserve()
    with pytest.raises(JournalFull) as refusal:
        bench.journal.reserve()
    assert refusal.value.headers == {"retry-after": "1"}
    with pytest.raises(JournalFull):
        bench.journal.append_extra(make_event())
    for _ in range(admitted):
        event = large(make_event)
        bench.journal.start(event)
        bench.journal.append(event)
    assert len(bench.events()) == len(bench.events(STARTED)) == admitted
    assert sum(path.stat().st_size for path in bench.files()) <= bench.options.budget
    await bench.journal.finish()


async def test_it_recovers_when_there_is_room_and_looks_at_most_ten_times_a_second(
    bench: Bench, clock: HandClock, make_event: MakeEvent
) -> None:
    for _ in range(8 * PER_SEGMENT):
        bench.journal.append_extra(large(make_event))
    with pytest.raises(JournalFull):
        bench.journal.reserve()
    bench.closed[0].path.unlink()
    with pytest.raises(JournalFull):
        bench.journal.reserve()
    clock.now += 0.11
    bench.journal.reserve()
    await bench.journal.finish()


async def test_a_second_mark_is_the_limit_where_the_policy_says_so(tmp_path: Path, clock: HandClock) -> None:
    bench = Bench(tmp_path, clock=clock, budget=2 * SEGMENT, when_full="second_mark", second_mark=3 * SEGMENT)
    with suppress(JournalFull):
        while True:
            bench.journal.reserve()
    assert len(bench.files()) == 3
    await bench.journal.finish()
    bench.boot.close()


def test_options_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValidationError, match="two segments"):
        JournalOptions(budget=SEGMENT, segment=SEGMENT)
    with pytest.raises(ValidationError, match="second_mark"):
        JournalOptions(when_full="second_mark", budget=3 * 2**30, second_mark=2**30)


exchanges = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "release", "start", "append", "extra", "tend"]), st.integers(200, LARGEST_PAYLOAD)
    ),
    max_size=200,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(steps=exchanges)
async def test_what_was_promised_can_be_written_whatever_happens_in_between(
    tmp_path_factory: pytest.TempPathFactory, make_event: MakeEvent, steps: list[tuple[str, int]]
) -> None:
    clock = HandClock()
    bench = Bench(tmp_path_factory.mktemp("journal"), clock=clock, budget=3 * SEGMENT)
    reserved, started, written, extra = 0, list[UsageEvent](), 0, 0
    for step, size in steps:
        clock.now += 0.5
        if step == "reserve":
            with suppress(JournalFull):
                bench.journal.reserve()
                reserved += 1
        elif step == "extra":
            with suppress(JournalFull):
                bench.journal.append_extra(large(make_event, size))
                extra += 1
        elif step == "tend":
            bench.journal.tend()
            await asyncio.sleep(0)
        elif step == "append" and started:
            bench.journal.append(started.pop())
            written += 1
        elif reserved and step != "append":
            reserved -= 1
            if step == "release":
                bench.journal.release()
            else:
                started.append(large(make_event, size))
                bench.journal.start(started[-1])
    # Every promise still open is now called in, at the largest size: none of these may raise.
    for event in started:
        bench.journal.append(event)
    for _ in range(reserved):
        event = large(make_event)
        bench.journal.start(event)
        bench.journal.append(event)
    assert len(bench.events()) == written + extra + len(started) + reserved
    assert sum(path.stat().st_size for path in bench.files()) <= bench.options.budget
    await bench.journal.finish()
    bench.boot.close()


async def test_a_segment_that_has_waited_is_closed_although_it_is_not_full(
    bench: Bench, clock: HandClock, make_event: MakeEvent
) -> None:
    begun = make_event()
    bench.journal.reserve()
    bench.journal.start(begun)
    for _ in range(3):
        bench.journal.tend()
        clock.now += 10
    assert bench.closed == [], "a started use is nothing to account for"
    bench.write(make_event())
    bench.journal.tend()
    clock.now += bench.options.segment_age

    def closed() -> bool:
        bench.journal.tend()
        return bool(bench.closed)

    await until(closed)
    assert (bench.closed[0].finals, bench.closed[0].starts) == (1, 1)
    bench.journal.append(begun)
    assert (bench.closed[0].starts, bench.segment.settles) == (0, {bench.closed[0]})
    await bench.journal.finish()


async def test_long_lived_starts_are_carried_to_a_new_segment(
    bench: Bench, clock: HandClock, make_event: MakeEvent
) -> None:
    begun = [make_event(admitted_at=at) for at in range(3)]
    for event in begun:
        bench.journal.reserve()
        bench.journal.start(event)
    first = bench.segment
    for _ in range(2 * PER_SEGMENT):
        bench.write(large(make_event))
    assert first.starts == 3

    def carried() -> bool:
        bench.journal.carry([first])
        return first.starts == 0

    await until(carried)
    assert bench.segment.starts == 3
    assert bench.segment.settles == {first}, "adoption must not find the old starts without their ends"
    (*_, last) = bench.files()
    first_records = [decode_event(record.payload) for record in SegmentReader(last)][:3]
    assert first_records == begun, "the oldest comes first in the new segment"
    for event in begun:
        bench.journal.append(event)
    assert bench.segment.starts == 0
    await bench.journal.finish()


async def test_surplus_room_is_given_back(bench: Bench) -> None:
    for _ in range(3 * PER_SEGMENT):
        bench.journal.reserve()
    assert len(bench.files()) >= 6
    for _ in range(3 * PER_SEGMENT):
        bench.journal.release()
    for _ in range(10):
        bench.journal.tend()
    assert len(bench.files()) <= 3
    await bench.journal.finish()
    assert bench.files() == []


async def test_a_start_that_is_renewed_counts_as_it_was_last_written(bench: Bench, make_event: MakeEvent) -> None:
    begun = make_event(quantities={"messages_in": 0})
    bench.journal.reserve()
    bench.journal.start(begun)
    first = bench.segment
    for count in range(3):
        bench.journal.renew(msgspec.structs.replace(begun, quantities={"messages_in": count}))
    assert first.starts == 1
    for _ in range(2 * PER_SEGMENT):
        bench.write(large(make_event))
    latest = msgspec.structs.replace(begun, quantities={"messages_in": 3})
    bench.journal.renew(latest)
    assert (first.starts, bench.segment.starts) == (0, 1)
    assert bench.segment.settles == {first}, "adoption must not find the old start without its end"
    bench.journal.renew(make_event())
    starts = [record.payload for path in bench.files() for record in SegmentReader(path) if record.kind == STARTED]
    assert [decode_event(payload) for payload in starts][-1] == latest, "a use that is not open is not begun"
    bench.journal.append(begun)
    assert bench.segment.starts == 0
    await bench.journal.finish()


async def test_a_start_is_not_renewed_at_the_cost_of_what_was_promised(bench: Bench, make_event: MakeEvent) -> None:
    begun = large(make_event)
    bench.journal.reserve()
    bench.journal.start(begun)
    reserved = 0
    with pytest.raises(JournalFull):  # noqa: PT012 - as many as fit
        while True:
            bench.journal.reserve()
            reserved += 1
    for _ in range(PER_SEGMENT):
        bench.journal.renew(begun)
    bench.journal.append(begun)
    for _ in range(reserved):
        event = large(make_event)
        bench.journal.start(event)
        bench.journal.append(event)
    assert len(bench.events()) == reserved + 1
    await bench.journal.finish()
