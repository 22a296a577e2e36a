"""Resolver: every address is a target, the old ones stay themselves, and a failure takes nothing away."""

from __future__ import annotations

import asyncio
import logging
import socket
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.background import Background
from gateway.metrics import Metrics
from gateway.upstream.resolver import Name, Resolver, ResolverOptions, addresses_of
from gateway.upstream.target import Target, TargetOptions

addresses = st.sets(st.sampled_from([f"10.0.0.{n}" for n in range(1, 12)]), min_size=1)


def name(host: str = "api.internal", **options: Any) -> Name:
    def make(address: str | None) -> Target:
        return Target(TargetOptions(url=f"http://{host}:9001"), address=address)

    return Name(make, ResolverOptions(**options))


@given(st.lists(addresses, min_size=1, max_size=8), st.integers(1, 12))
def test_addresses_that_stay_keep_their_targets_and_there_are_never_too_many(answers: list[set[str]], most: int):
    resolved = name(max_addresses=most)
    for answer in answers:
        before = {target.host: target for target in resolved.targets}
        changed = resolved.found(answer)
        after = {target.host: target for target in resolved.targets}
        assert after.keys() <= answer
        assert len(after) == min(most, len(answer))
        assert changed is (after.keys() != before.keys())
        for host in before.keys() & after.keys():
            assert after[host] is before[host]
        kept = before.keys() & answer
        assert after.keys() >= kept or len(kept) > most, "nobody known makes room for somebody new"


def test_targets_say_the_name_and_connect_to_the_address():
    resolved = name()
    resolved.found(["10.0.0.2", "10.0.0.1", "10.0.0.1", "fe80::1"])
    assert [target.address for target in resolved.targets] == ["10.0.0.1:9001", "10.0.0.2:9001", "[fe80::1]:9001"]
    assert {target.authority for target in resolved.targets} == {"api.internal:9001"}
    assert len({target.name for target in resolved.targets}) == 3


@pytest.mark.parametrize("host", ["10.0.0.1", "[::1]", "localhost"])
def test_an_address_is_its_own_target(host: str):
    resolved = name(host)
    assert resolved.is_fixed
    assert [target.name for target in resolved.targets] == [f"http://{host}:9001"]
    assert not name("api.internal").is_fixed


def test_after_failures_it_is_tried_again_soon_and_then_less_often():
    resolved, rng = name(interval=30.0), Random(1)
    assert 27.0 <= resolved.next_lookup(rng) <= 33.0
    waits = []
    for _ in range(8):
        resolved.failed()
        waits.append(resolved.next_lookup(rng))
    for wait, about in zip(waits, (1, 2, 4, 8, 16, 30, 30, 30), strict=True):
        assert wait == pytest.approx(about, rel=0.1)
    resolved.found(["10.0.0.1"])
    assert resolved.next_lookup(rng) >= 27.0


def test_a_failure_takes_nothing_away():
    resolved = name()
    resolved.found(["10.0.0.1"])
    assert resolved.failed()
    assert not resolved.failed()
    assert [target.host for target in resolved.targets] == ["10.0.0.1"]


@pytest.mark.parametrize("options", [{"interval": 0.5}, {"timeout": 0.0}, {"max_addresses": 0}])
def test_impossible_options_are_refused(options: dict[str, Any]):
    with pytest.raises(ValidationError):
        ResolverOptions(**options)


async def test_a_real_name_has_real_addresses():
    assert "127.0.0.1" in await addresses_of("localhost", 9001, socket.AF_UNSPEC)
    assert await addresses_of("localhost", 9001, socket.AF_INET) == ["127.0.0.1"]


class Answers:
    """What a lookup answers, how often it was asked, and whether more than once; None is silence."""

    def __init__(self) -> None:
        self.answer: list[str] | Exception | None = ["10.0.0.1"]
        self.asked = 0
        self.again = asyncio.Event()

    async def look_up(self, host: str, port: int, family: socket.AddressFamily) -> list[str]:
        self.asked += 1
        if self.asked > 1:
            self.again.set()
        if self.answer is None:
            await asyncio.sleep(60)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer or []


class Stage:
    """A resolver with everything it needs; `lists` is what it told."""

    def __init__(self, *names: Name, **options: Any) -> None:
        self.answers = Answers()
        self.background = Background()
        self.metrics = Metrics(None)
        self.lists: asyncio.Queue[list[str]] = asyncio.Queue()
        self.resolver = Resolver(
            "u",
            names,
            ResolverOptions(timeout=0.05, **options),
            lambda targets: self.lists.put_nowait([target.host for target in targets]),
            look_up=self.answers.look_up,
            rng=Random(1),
            background=self.background,
            metrics=self.metrics,
        )

    def count(self, outcome: str) -> float:
        text = "Lookups of targets' names, by outcome: found, failed, or too_many addresses to use them all."
        return self.metrics.counter("tallygate_lookups_total", text, ("upstream", "outcome")).labels("u", outcome).value


async def test_all_names_are_known_once_it_has_started_and_are_looked_up_again():
    stage = Stage(name(interval=1.0), name("10.9.9.9"))
    await stage.resolver.start()
    assert await stage.lists.get() == ["10.0.0.1", "10.9.9.9"]
    assert stage.answers.asked == 1
    stage.answers.answer = ["10.0.0.2", "10.0.0.1"]
    assert await asyncio.wait_for(stage.lists.get(), 3.0) == ["10.0.0.1", "10.0.0.2", "10.9.9.9"]
    assert stage.count("found") == 2
    await stage.background.stop()


@pytest.mark.parametrize("answer", [OSError("no such host"), None], ids=["an error", "silence"])
async def test_a_lookup_that_fails_is_over_in_time_and_said_once(answer: Exception | None, caplog):
    stage = Stage(name())
    stage.answers.answer = answer
    with caplog.at_level(logging.WARNING):
        await asyncio.wait_for(stage.resolver.start(), 1.0)
        assert await stage.lists.get() == []
        stage.answers.answer = OSError("still none")
        await asyncio.wait_for(stage.answers.again.wait(), 3.0)
    assert stage.count("failed") >= 1
    assert len([record for record in caplog.records if "no addresses for api.internal" in record.message]) == 1
    stage.answers.answer = ["10.0.0.1"]
    assert await asyncio.wait_for(stage.lists.get(), 5.0) == ["10.0.0.1"]
    await stage.background.stop()


async def test_too_many_addresses_are_counted():
    stage = Stage(name(max_addresses=2), max_addresses=2)
    stage.answers.answer = ["10.0.0.3", "10.0.0.2", "10.0.0.1"]
    await stage.resolver.start()
    assert await stage.lists.get() == ["10.0.0.1", "10.0.0.2"]
    assert stage.count("too_many") == 1
    await stage.background.stop()


async def test_after_a_reload_the_old_answers_are_good_until_there_are_new_ones():
    before, after = Stage(name(), name("10.9.9.9")), Stage(name(), name("other.internal"))
    await before.resolver.start()
    after.answers.answer = OSError("the name server is down")
    after.resolver.go_on_from(before.resolver)
    await after.resolver.start()
    assert await after.lists.get() == ["10.0.0.1"]
    await before.background.stop()
    await after.background.stop()
