"""Decisions counted at the edge: bounded, never lost while the process lives, and sent twice only under one number."""

from __future__ import annotations

import pytest

from gateway import decisions
from gateway.clock import Clock
from gateway.consumers import Consumer
from gateway.decisions import MOST_FRAMES, MOST_KINDS, MOST_OF_ONE, OTHERS, STREAM, Decisions, Entry, Frame, decode
from gateway.exchange import Exchange
from gateway.metrics import Metrics
from gateway.permissions import Decision
from gateway.stores.redis import Redis
from tests.fixtures.valkey import ValkeyServer, redis, valkey, valkey_process
from tests.play import NOWHERE, ask

__all__ = ["redis", "valkey", "valkey_process"]

REFUSED = Decision("books:read", False, "nothing grants it")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(None)


@pytest.fixture
async def counted(redis: Redis, metrics: Metrics) -> Decisions:
    return Decisions(redis, Clock(), metrics)


def exchange(consumer: str = "ann", organization: str = "acme", route: str = "books") -> Exchange:
    made = Exchange(ask(), Clock())
    made.route, made.consumer = route, Consumer(consumer, organization)
    return made


async def frames(redis: Redis) -> list[Frame]:
    return [decode(entry.payload) for entry in await redis.read_oldest(STREAM, count=2 * MOST_FRAMES)]


async def test_equal_ones_are_counted_together(counted: Decisions, redis: Redis) -> None:
    for _ in range(3):
        counted.note(exchange(), REFUSED)
    counted.note(exchange("bob"), REFUSED)
    counted.note(exchange(), REFUSED._replace(allowed=True, because="books:* grants it", denied=True))
    await counted.stop()
    (frame,) = await frames(redis)
    assert frame.since <= frame.until
    assert frame.entries == [
        Entry("acme", "ann", "books", "books:read", False, "nothing grants it", 3),
        Entry("acme", "bob", "books", "books:read", False, "nothing grants it", 1),
        Entry("acme", "ann", "books", "books:read", True, "books:* grants it", 1),
    ]


async def test_they_are_handed_over_each_second(
    counted: Decisions, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "HAND_OVER_SECONDS", 0.01)
    counted.start()
    for number in range(1, 4):
        counted.note(exchange(), REFUSED)
        while len(await frames(redis)) < number:
            pass
    assert [frame.number for frame in await frames(redis)] == [1, 2, 3]
    assert len({frame.sender for frame in await frames(redis)}) == 1
    await counted.stop()


async def test_a_flood_of_kinds_takes_bounded_room_and_none_from_others(
    counted: Decisions, redis: Redis, metrics: Metrics
) -> None:
    for number in range(10 * MOST_KINDS):
        counted.note(exchange(organization="flood"), Decision(f"books/{number}:read", False, "nothing grants it"))
    counted.note(exchange(), REFUSED)
    for number in range(2 * MOST_KINDS):
        counted.note(exchange(organization=f"o{number}"), REFUSED)
    await counted.stop()
    (frame,) = await frames(redis)
    assert sum(entry.times for entry in frame.entries) == 12 * MOST_KINDS + 1
    assert Entry("acme", "ann", "books", "books:read", False, "nothing grants it", 1) in frame.entries
    of_flood = [entry for entry in frame.entries if entry.organization == "flood"]
    assert len(of_flood) == MOST_OF_ONE + 1
    assert of_flood[-1] == Entry("flood", "", "", OTHERS, False, "", 10 * MOST_KINDS - MOST_OF_ONE)
    assert len(frame.entries) <= MOST_KINDS + 2
    assert frame.entries[-1].organization == "", "what nobody has room for is counted for nobody in particular"
    told = "Decisions that the audit log only counts together with others, as there were too many kinds."
    together = metrics.counter("tallygate_decisions_together_total", told).value
    assert together == sum(entry.times for entry in frame.entries if entry.wanted == OTHERS)


async def test_what_a_full_stream_does_not_take_is_kept_and_counted_on(
    counted: Decisions, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "MOST_FRAMES", 1)
    for _ in range(3):
        counted.note(exchange(), REFUSED)
        await counted._hand_over()
    (full,) = await frames(redis)
    await redis.delete(STREAM, [(await redis.read_oldest(STREAM, count=1))[0].identifier])
    monkeypatch.setattr(decisions, "MOST_FRAMES", 10)
    await counted.stop()
    assert [(frame.number, frame.entries[0].times) for frame in [full, *await frames(redis)]] == [
        (1, 1),
        (2, 1),
        (3, 1),
    ]


async def test_a_frame_that_may_have_arrived_goes_again_under_its_number(
    counted: Decisions, redis: Redis, valkey: ValkeyServer
) -> None:
    counted.note(exchange(), REFUSED)
    valkey.pause()  # it arrives, and nobody says so
    await counted._hand_over()
    valkey.resume()
    counted.note(exchange("bob"), REFUSED)
    await counted.stop()
    found = await frames(redis)
    assert {frame.number: frame.entries[0].consumer for frame in found} == {1: "ann", 2: "bob"}


async def test_what_cannot_be_handed_over_at_the_end_is_counted(
    metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    counted = Decisions(Redis(NOWHERE, deadline=0.2), Clock(), metrics)
    counted.note(exchange(), REFUSED)
    await counted._hand_over()
    counted.note(exchange(), REFUSED)
    await counted.stop()
    told = "Decisions that a process could not hand over before it ended."
    assert metrics.counter("tallygate_decisions_lost_total", told).value == 2
    assert caplog.text.count("decisions for the audit log wait") == 1
    assert "2 decisions are missing from the audit log" in caplog.text


async def test_without_a_control_plane_nothing_is_counted() -> None:
    counted = Decisions(None, Clock(), Metrics(None))
    counted.start()
    counted.note(exchange(), REFUSED)
    assert counted._next() is None
    await counted.stop()


async def test_what_a_database_would_not_take_is_not_sent(counted: Decisions, redis: Redis) -> None:
    counted.note(exchange(), Decision("x" * 10_000, False, "the policy service says: a\x00b\nc\u2028" + "é" * 1000))
    await counted.stop()
    (entry,) = (await frames(redis))[0].entries
    assert entry.because.startswith("the policy service says: a?b?c?é")
    assert (len(entry.wanted), len(entry.because)) == (200, 200)
