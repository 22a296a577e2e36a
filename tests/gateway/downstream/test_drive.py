"""Drive: begins at once, goes on when it can, and is cancelled as a task is. What a task does too is shown of both."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from gateway.downstream.drive import Drive

Work = Coroutine[Any, Any, None]
Begin = Callable[[Work], Any]


def driven(work: Work) -> Drive:
    return Drive(work, asyncio.get_running_loop())


both = pytest.mark.parametrize("begin", [driven, asyncio.ensure_future], ids=["drive", "task"])


async def turns(many: int = 5) -> None:
    for _ in range(many):
        await asyncio.sleep(0)


async def test_it_begins_at_once_and_goes_on_when_what_it_awaits_is_there() -> None:
    seen: list[object] = []
    awaited: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        seen.append("begun")
        seen.append(await awaited)
        await asyncio.sleep(0)
        seen.append("ended")

    driven(work())
    assert seen == ["begun"]
    awaited.set_result("there")
    await turns()
    assert seen == ["begun", "there", "ended"]


async def test_a_crash_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        raise ValueError("broken")

    driven(work())
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (logging.ERROR, "a driven coroutine crashed")
    ]


@both
async def test_what_it_awaits_is_cancelled(begin: Begin) -> None:
    seen: list[str] = []
    awaited: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        try:
            await awaited
        except asyncio.CancelledError:
            seen.append("cancelled")

    running = begin(work())
    await turns()
    running.cancel()
    assert awaited.cancelled()
    await turns()
    assert seen == ["cancelled"]


@both
@pytest.mark.parametrize("how", ["there", "failed"])
async def test_cancelled_in_the_moment_in_which_it_would_go_on_it_does_not_go_on(begin: Begin, how: str) -> None:
    seen: list[str] = []
    complaints: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))

    async def work(awaited: asyncio.Future[None]) -> None:
        try:
            await awaited
        except asyncio.CancelledError:
            seen.append("cancelled")
        await asyncio.sleep(0)
        seen.append("ended")

    async def cancel_late() -> None:
        awaited: asyncio.Future[None] = loop.create_future()
        running = begin(work(awaited))
        await turns()
        awaited.set_result(None) if how == "there" else awaited.set_exception(ValueError())
        running.cancel()
        await turns()

    await cancel_late()
    assert seen == ["cancelled", "ended"]
    gc.collect()
    assert complaints == [], "nobody asked how the future ended"


@both
async def test_cancelled_between_two_turns_of_the_loop_it_hears_of_it(begin: Begin) -> None:
    seen: list[str] = []

    async def work() -> None:
        try:
            for _ in range(100):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            seen.append("cancelled")

    running = begin(work())
    await turns()
    running.cancel()
    await turns()
    assert seen == ["cancelled"]


@both
@pytest.mark.parametrize("then", ["waits", "takes turns"])
async def test_cancelled_while_it_runs_it_hears_of_it_when_it_waits_next(begin: Begin, then: str) -> None:
    seen: list[str] = []
    loop = asyncio.get_running_loop()
    first: asyncio.Future[None] = loop.create_future()

    async def work() -> None:
        await first
        running.cancel()
        seen.append("went on")
        try:
            await (loop.create_future() if then == "waits" else asyncio.sleep(0))
        except asyncio.CancelledError:
            seen.append("cancelled")
        await asyncio.sleep(0)
        seen.append("ended")

    running = begin(work())
    await turns()
    first.set_result(None)
    await turns(10)
    assert seen == ["went on", "cancelled", "ended"]


@both
async def test_cancelled_after_its_end_nothing_happens(begin: Begin) -> None:
    seen: list[str] = []

    async def work() -> None:
        await asyncio.sleep(0)
        seen.append("ended")

    running = begin(work())
    await turns()
    running.cancel()
    await turns()
    assert seen == ["ended"]
