"""A table against a store whose every answer and change comes when hypothesis likes: nothing is believed that was heard
to have changed, and nobody is absent who may only be unknown.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.clock import Clock
from gateway.directory.freshness import Freshness
from gateway.directory.look_ups import Found, LookUp
from gateway.directory.options import DirectoryOptions
from gateway.directory.table import Held, Kind, Table
from gateway.metrics import Metrics
from gateway.problem import StoreDown

# The first letter is the organization; the table has room for two.
STEPS = [
    *[("ask", b"a1")] * 14,
    *[("ask", b"a2"), ("ask", b"b1")] * 2,
    *[("change", b"a1", True), ("hear_of_a_key", b"a1"), ("hear_of_an_organization", "a")] * 4,
    *[("change", b"a1", False), ("change", b"a2", True), ("change", b"b1", True), ("hear_of_a_key", b"a2")],
    *[("read", 0, False), ("land", 0), ("land", 1)] * 6,
    *[("read", 0, True), ("leave", 0), ("begin_era",), ("hear_of_an_organization", "b")],
    *[("answer_all",)] * 3,
    *[("weather", True, False, True)] * 3,
    *[("weather", False, False, True), ("weather", True, True, True), ("weather", True, False, False)],
]
"""What may happen, as often as it does: most of it to one key, so that it meets there."""


class LookUps:
    """Look-ups that land when they are told to, with what was read for them at some time before."""

    deadline = 60.0
    slow = False

    def __init__(self) -> None:
        self.waiting: list[LookUp] = []
        self.read: list[tuple[LookUp, Found | None]] = []

    def begin(self, look_up: LookUp) -> bool:
        self.waiting.append(look_up)
        return True


class World:
    """A table, its store, and all who ask; whatever is called happens at once, and nothing else does."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.look_ups = LookUps()
        self.freshness = Freshness(600.0, Clock.monotonic)
        self.freshness.begin_era(Clock.monotonic())
        self.whole = True
        self.versions = 0
        self.history: dict[bytes, list[int | None]] = defaultdict(lambda: [0])
        self.heard: dict[bytes, int] = defaultdict(int)  # place in the history that is known to have been reached
        self.asking: list[tuple[bytes, int, asyncio.Task[int | None]]] = []
        kind = Kind("things", lambda _digest: "hash", lambda value: Held(int(value[1:]), organization=chr(value[0])))
        self.table: Table[int] = Table(
            kind,
            2,
            DirectoryOptions(absent=2),
            look_ups=self.look_ups,  # type: ignore[arg-type]
            freshness=self.freshness,
            clock=Clock(),
            metrics=Metrics(None),
        )

    def do(self, *steps: tuple[Any, ...]) -> None:
        for name, *arguments in steps:
            getattr(self, name)(*arguments)

    def change(self, digest: bytes, exists: bool) -> None:
        self.versions += 1
        self.history[digest].append(self.versions if exists else None)

    def hear_of_a_key(self, digest: bytes) -> None:
        self.heard[digest] = len(self.history[digest]) - 1
        self.table.drop(digest)

    def hear_of_an_organization(self, organization: str) -> None:
        """Keys come and go with words of their own; this is about those that exist."""
        for digest, history in self.history.items():
            if digest.startswith(organization.encode()) and None not in history[self.heard[digest] :]:
                self.heard[digest] = len(history) - 1
        self.table.leave(organization)

    def begin_era(self) -> None:
        self.freshness.begin_era(Clock.monotonic())

    def weather(self, live: bool, slow: bool, whole: bool) -> None:
        self.freshness.live, self.look_ups.slow, self.whole = live, slow, whole

    def ask(self, digest: bytes) -> None:
        async def asking() -> int | None:
            found: Any = self.table.find(digest)
            return await found if isinstance(found, Awaitable) else found

        self.asking.append((digest, self.heard[digest], self.loop.create_task(asking())))
        self.settle()

    def read(self, place: int, fails: bool) -> None:
        if not self.look_ups.waiting:
            return
        look_up = self.look_ups.waiting.pop(place % len(self.look_ups.waiting))
        version = self.history[look_up.field][-1]
        if version is not None:
            found = Found(look_up.field[:1] + b"%d" % version)
        else:
            found = Found(None) if self.whole else None
        self.look_ups.read.append((look_up, None if fails else found))

    def land(self, place: int) -> None:
        if not self.look_ups.read:
            return
        look_up, found = self.look_ups.read.pop(place % len(self.look_ups.read))
        look_up.landed(found)
        self.settle()

    def answer_all(self) -> None:
        while self.look_ups.waiting:
            self.read(0, fails=False)
        while self.look_ups.read:
            self.land(0)

    def leave(self, place: int) -> None:
        if self.asking:
            self.asking.pop(place % len(self.asking))[2].cancel()
            self.settle()

    def settle(self) -> None:
        for _ in range(3):
            self.loop.run_until_complete(asyncio.sleep(0))
        for item in [item for item in self.asking if item[2].done()]:
            self.asking.remove(item)
            digest, heard, answer = item
            try:
                assert answer.result() in self.history[digest][heard:], "older than what was heard before it was asked"
            except StoreDown:
                continue

    def close(self) -> None:
        while self.asking:
            self.leave(0)
        self.loop.close()


@pytest.mark.parametrize("heard", [("hear_of_a_key", b"a1"), ("hear_of_an_organization", "a")])
def test_a_look_up_that_a_change_overtakes_is_for_nobody_who_asks_later(heard: tuple[Any, ...]) -> None:
    world = World()
    world.do(("ask", b"a1"), ("read", 0, False), ("change", b"a1", True), heard)
    world.do(("ask", b"a1"), ("land", 0), ("ask", b"a1"), ("answer_all",), ("ask", b"a1"))
    assert not world.asking
    assert world.table.find(b"a1") == 1
    world.close()


@pytest.mark.parametrize("meanwhile", [(), (("ask", b"a1"),)])
def test_a_look_up_from_before_a_gap_is_for_nobody_who_asks_behind_it(meanwhile: tuple[tuple[Any, ...], ...]) -> None:
    world = World()
    world.do(("ask", b"a1"), ("read", 0, False), ("change", b"a1", True), ("begin_era",))
    world.heard[b"a1"] = 1
    world.do(*meanwhile, ("land", 0), ("ask", b"a1"), ("answer_all",), ("ask", b"a1"))
    assert world.table.find(b"a1") == 1
    world.close()


def test_who_was_absent_before_a_gap_may_have_come_in_it() -> None:
    world = World()
    world.do(("change", b"a1", False), ("ask", b"a1"), ("answer_all",), ("ask", b"a1"))
    assert not world.look_ups.waiting  # known to be absent
    world.do(("change", b"a1", True), ("begin_era",), ("ask", b"a1"), ("answer_all",))
    assert world.table.find(b"a1") == 2
    world.close()


@settings(max_examples=300)
@given(st.lists(st.sampled_from(STEPS), min_size=100, max_size=200))
def test_nothing_is_believed_that_was_heard_to_have_changed(steps: list[tuple[Any, ...]]) -> None:
    world = World()
    try:
        world.do(*steps)
    finally:
        world.close()


def test_more_changes_than_are_remembered_drop_what_they_are_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.directory.table.MOST_CHANGED", 2)
    world = World()
    for digest in (b"a1", b"b1"):
        world.change(digest, exists=True)
        world.ask(digest)
        world.read(0, fails=False)
        world.land(0)
    for organization in "axy":
        world.table.leave(organization)
    world.ask(b"b1")
    assert not world.look_ups.waiting
    world.ask(b"a1")
    assert [look_up.field for look_up in world.look_ups.waiting] == [b"a1"]
    assert world.table._changed == {}
    world.close()
