"""Background: no task is lost, unheard of or left behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import time

import pytest

from gateway.background import Background


async def test_a_task_survives_the_garbage_collector_and_is_forgotten_at_its_end() -> None:
    background = Background()
    done = asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0.01)
        done.set()

    background.start(work(), "work")
    gc.collect()
    assert len(background) == 1
    await asyncio.wait_for(done.wait(), 1)
    await asyncio.sleep(0)
    assert len(background) == 0
    await background.stop()


async def test_a_crash_is_logged_once_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    background = Background()

    async def work() -> None:
        raise ValueError("broken")

    task = background.start(work(), "work")
    with pytest.raises(ValueError, match="broken"):
        await task
    await background.stop()
    records = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage() for record in records] == ["task work crashed"]
    assert records[0].exc_info is not None
    assert records[0].exc_info[0] is ValueError


async def test_stop_cancels_and_waits_for_the_clean_up(caplog: pytest.LogCaptureFixture) -> None:
    background = Background()
    cleaned = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.02)
            cleaned.append(True)

    for _ in range(3):
        background.start(work(), "work")
    await asyncio.sleep(0)
    await background.stop()
    await background.stop()
    assert cleaned == [True] * 3
    assert len(background) == 0
    assert not caplog.records


async def test_stop_has_a_deadline(caplog: pytest.LogCaptureFixture) -> None:
    background = Background()
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    task = background.start(stubborn(), "stubborn")
    await asyncio.sleep(0)
    before = time.monotonic()
    await background.stop(0.05)
    assert time.monotonic() - before < 1
    assert "stubborn ignores" in caplog.text
    release.set()
    await task


async def test_a_task_may_stop_its_own_owner() -> None:
    background = Background()
    task = background.start(background.stop(), "last")
    await asyncio.wait_for(task, 1)


async def test_nothing_starts_after_stop() -> None:
    background = Background()
    await background.stop()
    with pytest.raises(RuntimeError, match="late was started after"):
        background.start(asyncio.sleep(0), "late")


async def test_a_job_repeats_in_spite_of_failures_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    background = Background()
    runs = 0
    enough = asyncio.Event()

    async def job() -> None:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0)
        if runs == 6:
            enough.set()
        if runs <= 3:
            raise OSError("store away")

    background.every(0.005, job, "job", at_once=True)
    await asyncio.wait_for(enough.wait(), 5)
    await background.stop()
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["job job failed; it goes on", "job job succeeded after 3 failures"]


async def test_a_job_keeps_its_rhythm_and_never_overlaps() -> None:
    background = Background()
    running = overlaps = runs = 0

    async def job() -> None:
        nonlocal running, overlaps, runs
        overlaps += running
        running += 1
        await asyncio.sleep(0.02)
        running -= 1
        runs += 1

    background.every(0.005, job, "slow")
    await asyncio.sleep(0.3)
    await background.stop()
    assert overlaps == 0
    assert 3 <= runs <= 15


async def test_lag_is_what_a_blocking_call_costs() -> None:
    background = Background()
    seen: list[float] = []
    background.measure_lag(seen.append, 0.01)
    await asyncio.sleep(0.05)
    time.sleep(0.2)  # noqa: ASYNC251 - this is the fault that is measured
    await asyncio.sleep(0.05)
    await background.stop()
    assert max(seen) >= 0.15
    assert min(seen) >= 0
