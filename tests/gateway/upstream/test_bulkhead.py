"""Bulkhead: never too many, first come first served, and no place is ever lost, whatever happens in whatever stack."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pydantic import ValidationError

from gateway.metrics import Metrics
from gateway.options import FROM_FILE
from gateway.problem import Overloaded
from gateway.upstream.bulkhead import Bulkhead, BulkheadOptions

TIMEOUT = 1.0


def bulkhead(metrics: Metrics | None = None, **block: Any) -> Bulkhead:
    options = BulkheadOptions.model_validate(block, context=FROM_FILE)
    return Bulkhead(options, "upstream", "agents", metrics or Metrics(None))


class Guest:
    """A request that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.problem: Overloaded | None = None

    def admitted(self) -> None:
        self.told.append("admitted")

    def refused(self, problem: Overloaded) -> None:
        self.told.append("refused")
        self.problem = problem


def arrive(room: Bulkhead, guest: Guest, now: float = 0.0) -> None:
    if room.enter(guest, now):
        guest.admitted()


def test_who_waits_longest_goes_first() -> None:
    room = bulkhead(max_in_flight=1)
    guests = [Guest() for _ in range(4)]
    for guest in guests:
        arrive(room, guest)
    for served in range(1, 5):
        assert [guest.told for guest in guests] == [["admitted"]] * served + [[]] * (4 - served)
        room.leave()
    assert (room.free, room.in_flight, room.waiting) == (1, 0, 0)


def test_who_finds_the_queue_full_is_refused_at_once() -> None:
    metrics = Metrics(None)
    room = bulkhead(metrics, max_in_flight=1, max_waiting=1)
    arrive(room, Guest())
    arrive(room, Guest())
    with pytest.raises(Overloaded) as refusal:
        arrive(room, Guest())
    assert refusal.value.headers == {"retry-after": "1"}
    assert room.waiting == 1
    assert room._refused["full"].value == 1


def test_who_waits_too_long_is_refused() -> None:
    room = bulkhead(max_in_flight=1, wait_timeout="1s")
    early, late = Guest(), Guest()
    arrive(room, Guest())
    arrive(room, early, now=10.0)
    arrive(room, late, now=10.5)
    room.look(10.9)
    assert (early.told, late.told) == ([], [])
    room.look(11.0)
    assert (early.told, late.told) == (["refused"], [])
    assert early.problem is not None
    assert early.problem.headers == {"retry-after": "1"}
    assert room._refused["late"].value == 1
    room.leave()
    assert late.told == ["admitted"]


def test_who_gives_up_is_told_nothing_and_takes_nothing() -> None:
    room = bulkhead(max_in_flight=1)
    gone, next_one = Guest(), Guest()
    for guest in (Guest(), gone, next_one):
        arrive(room, guest)
    assert room.give_up(gone)
    room.leave()
    assert (gone.told, next_one.told) == ([], ["admitted"])
    assert not room.give_up(next_one)  # it has a place: it must leave instead


def test_the_gauges_follow() -> None:
    """All bulkheads of a name together: a reload may make another one while the old one has requests."""
    metrics = Metrics(None)
    rooms = [bulkhead(metrics, max_in_flight=places) for places in (2, 4)]
    for room in rooms:
        for _ in range(3):
            arrive(room, Guest())
        room.look(0.1)
    doc = "Requests in flight behind a bulkhead."
    in_flight = metrics.gauge("tallygate_bulkhead_in_flight", doc, ("scope", "name")).labels("upstream", "agents")
    assert in_flight.value == 2 + 3
    rooms[0].give_up(next(iter(rooms[0]._waiters)))
    rooms[0].leave()
    rooms[0].look(0.1)
    assert in_flight.value == 1 + 3


def test_a_thousand_that_end_at_once_do_not_pile_up_on_the_stack() -> None:
    room = bulkhead(max_in_flight=1, max_waiting=10_000)

    class Brief(Guest):
        def admitted(self) -> None:
            super().admitted()
            room.leave()

    arrive(room, Guest())
    guests = [Brief() for _ in range(10_000)]
    for guest in guests:
        arrive(room, guest)
    room.leave()
    assert all(guest.told == ["admitted"] for guest in guests)
    assert (room.free, room.waiting) == (1, 0)


def test_one_that_breaks_does_not_close_the_room() -> None:
    room = bulkhead(max_in_flight=1)

    class Broken(Guest):
        def admitted(self) -> None:
            raise ValueError

    after = Guest()
    arrive(room, Guest())
    arrive(room, Broken())
    arrive(room, after)
    with pytest.raises(ValueError):  # noqa: PT011 - its own
        room.leave()
    room.leave()
    assert after.told == ["admitted"]


@pytest.mark.parametrize(
    "block",
    [{}, {"max_in_flight": 0}, {"max_in_flight": 1, "max_waiting": -1}, {"max_in_flight": 1, "wait_timeout": "0s"}],
)
def test_what_cannot_be(block: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        bulkhead(**block)


Habit = Literal["stay", "leave", "friend", "clear", "both"]


class Visitor:
    """A request that, in the stack in which it is told, may leave, bring another, or make the others give up."""

    def __init__(self, hall: Hall, habit: Habit) -> None:
        self.hall = hall
        self.habit = habit
        self.until = hall.now + TIMEOUT

    def admitted(self) -> None:
        hall = self.hall
        assert hall.queue.pop(0) is self, "somebody overtook"
        self.enter()

    def enter(self) -> None:
        hall = self.hall
        hall.inside.append(self)
        assert len(hall.inside) <= hall.limit
        if self.habit in ("leave", "clear", "both"):
            hall.inside.remove(self)
            hall.room.leave()
        if self.habit in ("friend", "both"):
            hall.arrive("stay")
        if self.habit == "clear":
            while hall.queue:
                hall.give_up(len(hall.queue) - 1)

    def refused(self, _: Overloaded) -> None:
        hall = self.hall
        assert hall.queue.pop(0) is self
        assert hall.now >= self.until
        if self.habit in ("friend", "both"):
            hall.arrive("leave")


class Hall(RuleBasedStateMachine):
    @initialize(limit=st.integers(1, 3), waiting=st.integers(0, 5))
    def open(self, limit: int, waiting: int) -> None:
        self.limit, self.most_waiting, self.now = limit, waiting, 100.0
        self.room = bulkhead(max_in_flight=limit, max_waiting=waiting)
        self.inside: list[Visitor] = []
        self.queue: list[Visitor] = []

    @rule(habit=st.sampled_from(["stay", "stay", "leave", "friend", "clear", "both"]))
    def arrive(self, habit: Habit) -> None:
        visitor = Visitor(self, habit)
        try:
            entered = self.room.enter(visitor, self.now)
        except Overloaded:
            assert len(self.queue) == self.most_waiting
            return
        if entered:
            assert not self.queue, "somebody overtook"
            visitor.enter()
        else:
            self.queue.append(visitor)

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.inside.pop(data.draw(st.integers(0, len(self.inside) - 1)))
        self.room.leave()

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.give_up(data.draw(st.integers(0, len(self.queue) - 1)))

    def give_up(self, place: int) -> None:
        assert self.room.give_up(self.queue.pop(place))

    @rule(seconds=st.floats(0.0, 2.0))
    def look(self, seconds: float) -> None:
        self.now += seconds
        self.room.look(self.now)
        assert all(visitor.until > self.now for visitor in self.queue)

    @invariant()
    def no_place_is_lost(self) -> None:
        if hasattr(self, "room"):
            assert self.room.in_flight == len(self.inside) <= self.limit
            assert self.room.free == self.limit - len(self.inside)
            assert self.room.waiting == len(self.queue)
            assert not self.queue or len(self.inside) == self.limit


Hall.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
test_any_interleaving = Hall.TestCase
