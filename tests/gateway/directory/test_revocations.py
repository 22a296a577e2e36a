"""Revocations are all in memory, or nobody can tell."""

from __future__ import annotations

import time

import pytest

from gateway.clock import Clock
from gateway.directory.freshness import Freshness
from gateway.directory.revocations import Revocations
from gateway.metrics import Metrics
from gateway.problem import StoreDown
from tests.fixtures.directory import Hands, process, publisher, until
from tests.fixtures.publishing import Publisher
from tests.fixtures.valkey import ValkeyServer, redis, valkey, valkey_process

__all__ = ["publisher", "redis", "valkey", "valkey_process"]

LATER = int(time.time()) + 3 * 3600


def revocations(most: int, clock: Clock) -> Revocations:
    freshness = Freshness(600.0, clock.monotonic)
    freshness.begin_era(clock.monotonic())
    return Revocations(most, freshness, clock, Metrics(None))


def test_what_is_over_is_forgotten_and_what_is_taken_back_too() -> None:
    clock, now = Hands(), int(time.time())
    known = revocations(10, clock)
    known.replace({"jti:a": now + 60, "jti:b": LATER, "jti:old": now - 1})
    assert [known.is_revoked("jti", name) for name in ("a", "b", "old")] == [True, True, False]
    known.add({"jti:b": 0})
    assert not known.is_revoked("jti", "b")
    clock.turned = 61
    known.prune()
    assert not known.is_revoked("jti", "a")


def test_with_more_than_can_be_held_nobody_can_tell_about_the_others() -> None:
    known = revocations(2, Hands())
    known.replace({"jti:a": LATER, "jti:b": LATER})
    assert not known.is_revoked("jti", "c")
    known.add({"jti:a": LATER + 1, "jti:c": LATER})
    assert known.is_revoked("jti", "a")
    for name in ("c", "d"):
        with pytest.raises(StoreDown):
            known.is_revoked("jti", name)
    assert not known.has_room_again


async def test_when_there_is_room_again_all_are_read_again(valkey: ValkeyServer, publisher: Publisher) -> None:
    clock, now = Hands(), int(time.time())
    await publisher.revoke({"jti:a": now + 60, "jti:b": now + 60})
    async with process(valkey.url, clock, revocations=1) as edge:
        revoked = edge.published.revocations
        with pytest.raises(StoreDown):
            revoked.is_revoked("jti", "c")
        clock.turned = 61
        revoked.prune()

        async def all_are_known() -> bool:
            try:
                return not revoked.is_revoked("jti", "c")
            except StoreDown:
                return False

        await until(all_are_known)
        assert edge.number("tallygate_directory_resyncs_total") == 2
