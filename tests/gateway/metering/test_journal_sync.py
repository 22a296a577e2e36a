from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.problem import JournalFull
from tests.gateway.metering.bench import Bench
from tests.gateway.metering.conftest import HandClock, MakeEvent, until


async def test_with_sync_disk_events_are_handed_on_when_they_are_on_the_disk(
    tmp_path: Path, clock: HandClock, make_event: MakeEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, clock=clock, sync="disk")
    syncs = []
    sync = os.fdatasync

    def counted(fd: int) -> None:
        syncs.append(fd)
        sync(fd)

    monkeypatch.setattr(os, "fdatasync", counted)
    futures = [bench.write(make_event()) for _ in range(100)]
    assert len(bench.records()) == 100
    assert bench.shipped == []
    for future in futures:
        assert future is not None
        await future
    assert len(bench.shipped) == 100
    assert len(syncs) == 2, "the first alone, the other 99 together"
    await bench.journal.finish()
    bench.boot.close()


async def test_after_a_failed_sync_the_events_are_written_once_more(
    tmp_path: Path, clock: HandClock, make_event: MakeEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, clock=clock, sync="disk")
    sync = os.fdatasync
    failures = iter([OSError(5, "Input/output error")])

    def fail_once(fd: int) -> None:
        if (error := next(failures, None)) is not None:
            raise error
        sync(fd)

    monkeypatch.setattr(os, "fdatasync", fail_once)
    events = [make_event() for _ in range(3)]
    futures = [bench.write(event) for event in events]
    for future in futures:
        assert future is not None
        await future
    assert bench.events() == events * 2
    (failed,) = bench.closed
    assert failed.unsent, "what may be in it is sent, too"
    assert {name for name, _, _ in bench.shipped} == {bench.segment.name}
    await bench.journal.finish()
    bench.boot.close()


async def test_a_disk_that_never_syncs_says_so_to_each_event(
    tmp_path: Path, clock: HandClock, make_event: MakeEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, clock=clock, sync="disk")

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    futures = [bench.write(make_event()) for _ in range(3)]
    for future in futures:
        assert future is not None
        with pytest.raises(JournalFull):
            await future
    assert bench.shipped == []
    monkeypatch.undo()
    await bench.journal.finish()
    bench.boot.close()


async def test_carried_starts_are_on_the_disk_before_the_old_ones_may_go(
    tmp_path: Path, clock: HandClock, make_event: MakeEvent
) -> None:
    bench = Bench(tmp_path, clock=clock, sync="disk")
    begun = make_event()
    bench.journal.reserve()
    bench.journal.start(begun)
    first = bench.segment
    bench.journal._writer.spares.make_now()
    bench.journal.carry([first])
    assert (first.starts, bench.segment.starts) == (1, 1)
    await until(lambda: first.starts == 0)
    await bench.journal.finish()
    bench.boot.close()
