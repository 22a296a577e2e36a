"""What dead processes leave: found, repaired, estimated where an end is missing, sent and deleted."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeAlias

import msgspec
import pytest

from gateway.clock import Clock
from gateway.metering.adoption import Steward, estimate, inspect
from gateway.metering.directory import Directory
from gateway.metering.event import UsageEvent, encode_event
from gateway.metering.segment import FINAL, STARTED, UNNUMBERED, encode_record
from gateway.metering.spares import RETRY_SECONDS
from gateway.metering.stream import accounted_key, publish_counts, read_nodes
from gateway.metering.usage import Usage, UsageOptions
from gateway.metrics import Metrics
from gateway.stores.redis import Redis
from tests.fixtures.accountant import Accountant
from tests.fixtures.valkey import ValkeyServer
from tests.gateway.metering.conftest import SHARDS, MakeEvent, segments_on_disk, until

MakeSteward: TypeAlias = Callable[[], Steward]
BOOT = "d" * 16


@pytest.fixture
async def make_steward(options: UsageOptions, redis: Redis, metrics: Metrics) -> AsyncIterator[MakeSteward]:
    made = []

    def make() -> Steward:
        made.append(Steward(options, redis=redis, clock=Clock(), metrics=metrics))
        return made[-1]

    yield make
    for steward in made:
        await steward._background.stop()  # where the test failed before it stopped
        await steward._usage._background.stop()


def leave(options: UsageOptions, boot: str, *segments: bytes) -> Directory:
    """Makes the directory of a process that died having written these bytes into its segments."""
    directory = Directory(Path(options.journal.directory), limit=options.journal.limit)
    folder = directory.root / boot
    folder.mkdir()
    for sequence, content in enumerate(segments):
        (folder / f"{sequence:08d}.segment").write_bytes(content + bytes(options.journal.segment - len(content)))
    return directory


def started(event: UsageEvent) -> bytes:
    return encode_record(STARTED, UNNUMBERED, encode_event(event))


def final(number: int, event: UsageEvent) -> bytes:
    return encode_record(FINAL, number, encode_event(event))


async def test_what_a_dead_process_left_gets_into_the_books(
    make_steward: MakeSteward, options: UsageOptions, accountant: Accountant, make_event: MakeEvent
) -> None:
    events = [make_event(organization=f"org-{n}") for n in range(20)]
    torn = final(20, make_event())[:-3]
    contents = b"".join(final(n, event) for n, event in enumerate(events))
    directory = leave(options, BOOT, contents + torn, b"")
    steward = make_steward()
    await steward.start()
    await until(lambda: len(accountant.books) == 20)
    assert sorted(e.event_id for e in accountant.events) == sorted(e.event_id for e in events)
    assert {name for name, _ in accountant.books} == {f"{directory.node}/{BOOT}/00000000"}
    await until(lambda: BOOT not in directory.boots())
    assert steward._torn_total.value == 1
    await steward.stop(2.0)
    assert directory.boots() == []


async def test_a_use_without_an_end_is_estimated_and_one_with_an_end_is_not(
    make_steward: MakeSteward, options: UsageOptions, accountant: Accountant, make_event: MakeEvent
) -> None:
    orphan, ended, ended_later = make_event(admitted_at=7, occurred_at=8), make_event(), make_event()
    leave(
        options,
        BOOT,
        started(orphan) + started(ended) + started(ended_later) + final(0, ended),
        final(0, ended_later),
    )
    steward = make_steward()
    await steward.start()
    await until(lambda: len(accountant.books) == 3)
    await steward.stop(2.0)
    by_id = {event.event_id: event for event in accountant.events}
    assert by_id == {
        ended.event_id: ended,
        ended_later.event_id: ended_later,
        orphan.event_id: msgspec.structs.replace(orphan, outcome="estimated", status=0),
    }
    assert segments_on_disk(options) == []


def test_a_segment_with_starts_goes_before_the_one_with_their_ends(
    options: UsageOptions, make_event: MakeEvent
) -> None:
    first, second = make_event(), make_event()
    # A start that was carried lies in two segments.
    directory = leave(
        options, BOOT, started(first) + started(second), started(second) + final(0, first), final(0, second)
    )
    boot = directory.adopt(BOOT)
    assert boot is not None
    estate = inspect(boot, SHARDS)
    assert estate.orphans == []
    a, b, c = estate.segments
    assert (a.settles, b.settles, c.settles) == (set(), {a}, {a, b})
    boot.close()


async def test_a_steward_that_dies_after_its_estimates_is_repaired_by_the_next(
    make_steward: MakeSteward, options: UsageOptions, accountant: Accountant, make_event: MakeEvent
) -> None:
    orphan = make_event()
    leave(options, BOOT, started(orphan))
    leave(options, "e" * 16, final(0, estimate(orphan)))  # a dead steward's own
    steward = make_steward()
    await steward.start()
    await until(lambda: len(accountant.books) == 2)
    await steward.stop(2.0)
    assert accountant.events == [estimate(orphan)] * 2, "the same to the byte: the books count one as a duplicate"


async def test_living_processes_are_left_alone(
    make_steward: MakeSteward, options: UsageOptions, redis: Redis, metrics: Metrics, make_event: MakeEvent
) -> None:
    usage = Usage(options, redis=redis, clock=Clock(), metrics=metrics)
    begun = make_event()
    usage.journal.reserve()
    usage.journal.start(begun)
    steward = make_steward()
    await steward.adopt()
    await steward.adopt()
    assert steward._adopted == {}
    usage.journal.append(begun)
    await usage.stop(0.1)
    await steward.adopt()
    assert list(steward._adopted) == [usage.boot]
    await steward.stop(0.1)


async def test_segments_wait_for_their_estimates_and_these_for_room(
    options: UsageOptions, redis: Redis, metrics: Metrics, make_event: MakeEvent
) -> None:
    size = options.journal.segment
    journal = options.journal.model_copy(update={"budget": 2 * size})
    steward = Steward(options.model_copy(update={"journal": journal}), redis=redis, clock=Clock(), metrics=metrics)
    orphans = [make_event(route="r" * 3900) for _ in range(16)]
    directory = leave(options, BOOT, b"".join(map(started, orphans)))
    other = directory.claim("c" * 16)
    taken = other.create(0, size)
    await steward.adopt()
    assert list(steward._unsettled) == [BOOT]
    assert len(steward._usage.backlog) == 0
    taken.path.unlink()
    os.close(taken.fd)
    await asyncio.sleep(RETRY_SECONDS)
    await steward.adopt()
    assert steward._unsettled == {}
    assert [segment.finals for segment in steward._usage.backlog._waiting] == [0]
    assert steward._estimated_total.value == 16
    other.close()
    await steward.stop(0.0)


async def test_heartbeats_tell_the_oldest_time_of_living_dead_and_own(
    make_steward: MakeSteward, options: UsageOptions, redis: Redis, metrics: Metrics, make_event: MakeEvent
) -> None:
    steward = make_steward()
    now = Clock().micros()

    async def oldest() -> int | None:
        await steward.beat()
        beat = (await read_nodes(redis))[steward.node]
        assert beat.at >= now
        assert beat.segments == len(segments_on_disk(options))
        assert beat.bytes == sum(path.stat().st_size for path in segments_on_disk(options))
        return beat.oldest_unaccounted_at

    assert await oldest() is None
    usage = Usage(options, redis=redis, clock=Clock(), metrics=metrics)
    usage.journal.append_extra(make_event(admitted_at=500))
    assert await oldest() == 500
    leave(options, BOOT, final(0, make_event(admitted_at=400, occurred_at=450)) + started(make_event(admitted_at=300)))
    assert await oldest() == 400, "not adopted yet: its first record speaks for it"
    await steward.adopt()
    assert await oldest() == 300, "the estimate will lie at its start"
    await publish_counts(redis, {(f"{steward.node}/{BOOT}/00000000", shard): 1 for shard in range(1)})
    await steward._usage.backlog.check()
    await usage.stop(0.0)
    await steward.stop(0.0)


async def test_forgotten_counts_are_swept_up(make_steward: MakeSteward, redis: Redis) -> None:
    steward = make_steward()
    await publish_counts(redis, {(f"{steward.node}/{BOOT}/00000007", 1): 3})
    await steward.beat()
    assert await redis.hash_read(accounted_key(steward.node)) == {}
    await steward.stop(0.0)


WRITER = """
import asyncio, sys
from gateway.clock import Clock
from gateway.metering.event import UsageEvent
from gateway.metering.usage import Usage, UsageOptions
from gateway.metrics import Metrics
from gateway.stores.redis import Redis

async def main():
    options = UsageOptions.model_validate_json(sys.argv[1])
    clock = Clock()
    usage = Usage(options, redis=Redis(sys.argv[2]), clock=clock, metrics=Metrics(None))
    await usage.start()
    n = 0
    while True:
        for _ in range(50):
            at, n = clock.micros(), n + 1
            event = UsageEvent(1, clock.uuid7(), "usage", at, at, f"org-{n % 11}", "s", "p", "k", "r", "u", "", "",
                               200, "ok", {"requests": 1, "padding": 10 ** (n % 15)})
            usage.journal.reserve()
            if n % 3 == 0:
                usage.journal.start(event)
                sys.stdout.write("S" + event.event_id.hex() + "\\n")
            usage.journal.append(event)
            sys.stdout.write("F" + event.event_id.hex() + "\\n")
            sys.stdout.flush()
        await asyncio.sleep(0)

asyncio.run(main())
"""


def spawn_writer(options: UsageOptions, url: str) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", WRITER, options.model_dump_json(), url]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE)


def acknowledged(child: subprocess.Popen[bytes], seconds: float) -> tuple[set[bytes], set[bytes]]:
    """Kills the child after a while; the ids it had appended, and those it had started, when it died."""
    assert child.stdout is not None
    os.set_blocking(child.stdout.fileno(), False)
    output = b""
    while not output:
        output += child.stdout.read() or b""
    give_up = Clock().monotonic() + seconds
    while Clock().monotonic() < give_up:
        output += child.stdout.read() or b""
    child.send_signal(signal.SIGKILL)
    child.wait()
    os.set_blocking(child.stdout.fileno(), True)
    lines = (output + child.stdout.read()).split(b"\n")[:-1]
    child.stdout.close()
    finals = {bytes.fromhex(line[1:].decode()) for line in lines if line.startswith(b"F")}
    starts = {bytes.fromhex(line[1:].decode()) for line in lines if line.startswith(b"S")}
    return finals, starts


async def test_kill_9_at_full_speed_loses_no_event_whose_append_returned(
    make_steward: MakeSteward, options: UsageOptions, valkey: ValkeyServer, accountant: Accountant
) -> None:
    journal = options.journal.model_copy(update={"budget": 2**30})
    options = options.model_copy(update={"journal": journal})
    steward = make_steward()
    await steward.start()
    finals, starts = set[bytes](), set[bytes]()
    for _ in range(8):
        child = await asyncio.to_thread(spawn_writer, options, valkey.url)
        acked, begun = await asyncio.to_thread(acknowledged, child, random.uniform(0.05, 0.4))
        finals |= acked
        starts |= begun
    assert len(finals) > 1000
    await until(lambda: finals | starts <= accountant.times_booked().keys(), seconds=30)
    await until(lambda: segments_on_disk(options) == segments_on_disk(options)[:1], seconds=30)
    twice = [event_id for event_id, times in accountant.times_booked().items() if times > 1]
    assert twice == [], "each once"
    outcomes = {event.event_id: event.outcome for event in accountant.events}
    assert all(outcomes[event_id] == "ok" for event_id in finals)
    assert {event_id for event_id, outcome in outcomes.items() if outcome == "estimated"}.isdisjoint(finals)
    await steward.stop(5.0)
    assert segments_on_disk(options) == []
