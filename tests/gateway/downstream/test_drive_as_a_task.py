"""Drive: whatever happens to a coroutine and what it awaits, it is the same as in a task; only the start is sooner."""

from __future__ import annotations

import asyncio
import logging

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.fixtures.turns import Turns

FUTURES = 4
TURN = -1
STEPS = st.lists(st.tuples(st.integers(TURN, FUTURES - 1), st.booleans()), min_size=1, max_size=6)
Steps = list[tuple[int, bool]]
WHICH = st.integers(0, FUTURES - 1)


class Side:
    """A coroutine and what it awaits, in a loop of its own; `trace` is what it has lived through."""

    def __init__(self, how: str, steps: Steps) -> None:
        self.turns = Turns()
        self.trace: list[str] = []
        self.waiting = True
        self.futures = [self.turns.loop.create_future() for _ in range(FUTURES)]
        begin = self.turns.drive if how == "drive" else self.turns.task
        self.work = begin(self._work(steps))

    async def _work(self, steps: Steps) -> None:
        try:
            for which, stubborn in steps:
                await self._step(which, stubborn)
            self.trace.append("end")
        finally:
            self.waiting = False

    async def _step(self, which: int, stubborn: bool) -> None:
        try:
            if which == TURN:
                await asyncio.sleep(0)
                self.trace.append("turned")
            else:
                self.trace.append(f"got {await self.futures[which]}")
        except asyncio.CancelledError:
            self.trace.append("cancelled")
            if not stubborn:
                raise
        except LookupError as error:
            self.trace.append(f"failed {error}")

    def close(self) -> None:
        self.turns.close()


class DriveIsLikeATask(RuleBasedStateMachine):
    """The same happens to both, turn for turn, and at any time."""

    sides: tuple[Side, Side]

    @initialize(steps=STEPS)
    def begin(self, steps: Steps) -> None:
        logging.getLogger("gateway.downstream.drive").setLevel(
            logging.CRITICAL
        )  # it tells of a coroutine that a task would keep
        self.sides = Side("drive", steps), Side("task", steps)

    @rule(which=WHICH, value=st.integers(0, 9))
    def a_future_is_done(self, which: int, value: int) -> None:
        for side in self.sides:
            if not side.futures[which].done():
                side.futures[which].set_result(value)

    @rule(which=WHICH)
    def a_future_fails(self, which: int) -> None:
        for side in self.sides:
            if not side.futures[which].done():
                side.futures[which].set_exception(LookupError(which))
                side.futures[which].exception()  # somebody has seen it

    @rule(which=WHICH)
    def a_future_is_cancelled(self, which: int) -> None:
        for side in self.sides:
            side.futures[which].cancel()

    @rule()
    def it_is_cancelled(self) -> None:
        for side in self.sides:
            side.work.cancel()

    @rule(times=st.integers(1, 3))
    def turns_pass(self, times: int) -> None:
        for side in self.sides:
            side.turns.turn(times)

    @invariant()
    def they_have_lived_through_the_same(self) -> None:
        if hasattr(self, "sides"):
            drive, task = self.sides
            assert drive.trace == task.trace
            assert drive.waiting == task.waiting
            assert [each.cancelled() for each in drive.futures] == [each.cancelled() for each in task.futures]

    def teardown(self) -> None:
        if hasattr(self, "sides"):
            for side in self.sides:
                side.close()
            self.they_have_lived_through_the_same()


TestDriveIsLikeATask = DriveIsLikeATask.TestCase
TestDriveIsLikeATask.settings = settings(max_examples=150, stateful_step_count=20, deadline=None, derandomize=True)
