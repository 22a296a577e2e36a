from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from gateway.clock import Clock
from gateway.metering.event import UsageEvent
from gateway.metering.journal import JournalOptions
from gateway.metering.shipper import FrameOptions
from gateway.metering.usage import UsageOptions
from gateway.metrics import Metrics
from gateway.stores.redis import Redis
from tests.fixtures.accountant import Accountant
from tests.fixtures.valkey import ValkeyServer, redis, valkey, valkey_process

__all__ = ["redis", "valkey", "valkey_process"]

SHARDS = 4


class HandClock(Clock):
    """A clock whose monotonic hand a test turns; the others go by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class MakeEvent(Protocol):
    def __call__(self, **changes: Any) -> UsageEvent: ...


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(None)


@pytest.fixture
def make_event() -> MakeEvent:
    clock = Clock()

    def make(**changes: Any) -> UsageEvent:
        at = clock.micros()
        fields = {
            "version": 1,
            "event_id": clock.uuid7(),
            "kind": "usage",
            "admitted_at": at,
            "occurred_at": at,
            "organization": "acme",
            "subscription": "s1",
            "plan_version": "starter@1",
            "key": "k1",
            "route": "agents",
            "upstream": "agents",
            "provider": "",
            "model": "",
            "status": 200,
            "outcome": "ok",
            "quantities": {"requests": 1},
        }
        return UsageEvent(**(fields | changes))

    return make


@pytest.fixture
def options(tmp_path: Path) -> UsageOptions:
    """Small segments and short waits, so that a test sees everything happen."""
    journal = JournalOptions(directory=str(tmp_path / "journal"), budget=8 * 2**20, segment=64 * 1024, segment_age=0.2)
    return UsageOptions(journal=journal, frame=FrameOptions(interval=0.01), shards=SHARDS, resend_after=0.5)


@pytest.fixture
async def accountant(valkey: ValkeyServer) -> AsyncIterator[Accountant]:
    """At work in the background."""
    redis = Redis(valkey.url, deadline=0.5)
    accountant = Accountant(redis, shards=SHARDS)
    work = asyncio.create_task(accountant.run())
    yield accountant
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work
    await redis.close()


async def until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    """Waits until the condition holds; fails if it does not within so many seconds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


def segments_on_disk(options: UsageOptions) -> list[Path]:
    return sorted(Path(options.journal.directory).glob("*/*.segment"))
