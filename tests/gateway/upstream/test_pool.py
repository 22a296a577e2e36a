"""Pool: never too many connections, never a call that sleeps while there is room, first come first served."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.problem import Overloaded
from gateway.upstream.pool import Pool
from gateway.upstream.target import Target, TargetOptions

if TYPE_CHECKING:
    from gateway.upstream.connection import Connection

WAIT, KEEP = 10.0, 30.0
TARGETS = [Target(TargetOptions(url=f"http://t{number}:80")) for number in range(2)]


class Clockwork(asyncio.SelectorEventLoop):
    """An event loop whose hands are turned by the test."""

    _ready: list[object]  # empty when nothing would happen without time passing
    now = 0.0

    def time(self) -> float:
        return self.now


class Wire:
    """Stands for a connection; aborted, it is gone a turn of the loop later."""

    def __init__(self, world: World, target: Target) -> None:
        self.target = target
        self.idle_since = 0.0
        self.usable = True
        self._world = world
        world.wires.append(self)

    def abort(self) -> None:
        if self.usable:
            self.usable = False
            self._world.wires.remove(self)
            self._world.loop.call_soon(self._world.pool.discard, cast("Connection", self))

    def expire(self, now: float) -> None:
        assert self._world.loop.time() == now


class Call:
    """One call on its way: it waits, then opens a connection or is given one, then holds it."""

    def __init__(self, target: Target, at: float) -> None:
        self.target = target
        self.at = at
        self.task: asyncio.Task[Connection] | None = None
        self.opening: asyncio.Future[None] | None = None
        self.served = False


class World:
    """A pool, the connections behind it, and the calls before it. `wrong` is what must never have happened."""

    def __init__(self, limit: int, max_waiting: int) -> None:
        self.loop = Clockwork()
        self.limit, self.max_waiting = limit, max_waiting
        self.wires: list[Wire] = []
        self.held: list[Wire] = []
        self.pending: list[Call] = []  # those that have neither a connection nor a refusal, as they came
        self.refused: list[tuple[Call, BaseException, float]] = []
        self.wrong: list[str] = []
        self.unfair: list[Call] = []
        self.pool = Pool(self._open, limit=limit, max_waiting=max_waiting, wait_timeout=WAIT, keepalive_timeout=KEEP)

    async def _open(self, target: Target) -> Connection:
        call = next(each for each in self.pending if each.task is asyncio.current_task())
        self._serve(call)
        call.opening = self.loop.create_future()
        try:
            await call.opening
        finally:
            call.opening = None
        return cast("Connection", Wire(self, target))

    def _serve(self, call: Call) -> None:
        if not call.served and self.queued[0] is not call:
            self.unfair.append(call)
        call.served = True

    def call(self, target: Target) -> Call:
        """As Upstream calls: an idle connection if there is one, or else whatever `connect` brings."""
        call = Call(target, self.loop.now)
        taken = self.pool.take(target)
        if taken is not None:
            self._hold(taken, target)
            call.served = True
        else:
            self.pending.append(call)
            call.task = self.loop.create_task(self._connect(call))
            call.task.add_done_callback(lambda task: self._ended(call, task))
        return call

    async def _connect(self, call: Call) -> Connection:
        call.at = self.loop.now
        connection = await self.pool.connect(call.target)
        self._serve(call)
        self._hold(connection, call.target)
        return connection

    def _ended(self, call: Call, task: asyncio.Task[Connection]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, (Overloaded, OSError)):
            self.refused.append((call, error, self.loop.now - call.at))
        elif error is not None:
            self.wrong.append(f"a call ended with {error!r}")
        self.pending.remove(call)

    def _hold(self, connection: Connection, target: Target) -> None:
        wire = cast("Wire", connection)
        if not wire.usable or wire in self.held or wire.target is not target:
            self.wrong.append("a connection was handed out that is gone, or another call's, or leads elsewhere")
        self.held.append(wire)

    def release(self, wire: Wire) -> None:
        self.held.remove(wire)
        wire.idle_since = self.loop.now
        self.pool.release(cast("Connection", wire))

    def lose(self, wire: Wire) -> None:
        if wire in self.held:
            self.held.remove(wire)
        wire.usable = False
        self.wires.remove(wire)
        self.pool.discard(cast("Connection", wire))

    @property
    def opening(self) -> list[asyncio.Future[None]]:
        return [call.opening for call in self.pending if call.opening is not None]

    @property
    def queued(self) -> list[Call]:
        return [call for call in self.pending if not call.served]

    @property
    def idle(self) -> list[Wire]:
        """Not those that were handed to a call which has not come to take them yet."""
        return [wire for wire in self.wires if wire in self.pool._idle[wire.target]]

    @property
    def in_use(self) -> int:
        return len(self.wires) + len(self.opening)

    def settle(self) -> None:
        """Let everything happen that needs no time."""
        self.loop.run_until_complete(_turns())

    def end(self) -> None:
        """Everybody leaves."""
        for _ in range(2):
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.settle()
            for wire in list(self.wires):
                self.lose(wire)
            self.settle()
        self.loop.close()

    def end_with_all_places(self) -> None:
        """Were a place lost on the way, fewer than `limit` calls could be served after everybody left."""
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        for wire in list(self.wires):
            self.lose(wire)
        self.settle()
        fresh = [self.call(TARGETS[0]) for _ in range(self.limit)]
        self.settle()
        served = [call.opening is not None for call in fresh]
        self.end()
        assert served == [True] * self.limit
        assert (self.in_use, self.pool.waiting, self.pool.idle, self.pending) == (0, 0, 0, [])


async def _turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


WHICH = st.integers(0, 11)
WHEN = st.sampled_from(["now", "later", "with the timers"])


class PoolInRaces(RuleBasedStateMachine):
    """Things happen one after another, in one turn of the loop, or in the turn in which somebody's time is over."""

    world: World
    closed = False
    TIMERS_RACE = False

    @initialize(limit=st.integers(1, 3), max_waiting=st.integers(0, 3))
    def begin(self, limit: int, max_waiting: int) -> None:
        self.world = World(limit, max_waiting)

    def happen(self, event: Callable[[], object], when: str) -> None:
        world = self.world
        if when == "with the timers" and self.TIMERS_RACE and world.queued:
            # What the loop reads from sockets comes before its timers, and what it wakes comes after them.
            world.loop.call_soon(event)
            world.loop.now = max(world.loop.now, world.queued[0].at + WAIT)
        else:
            event()
        if when != "later":
            world.settle()

    @rule(to=st.sampled_from(TARGETS), when=WHEN)
    def somebody_calls(self, to: Target, when: str) -> None:
        self.happen(lambda: self.world.call(to), when)

    @precondition(lambda self: self.world.opening)
    @rule(which=WHICH, when=WHEN, fails=st.sampled_from([None, None, OSError, TimeoutError]))
    def an_opening_ends(self, which: int, when: str, fails: type[OSError] | None) -> None:
        opening = self.world.opening[which % len(self.world.opening)]

        def end() -> None:
            if not opening.done():
                opening.set_result(None) if fails is None else opening.set_exception(fails())

        self.happen(end, when)

    @precondition(lambda self: self.world.held)
    @rule(which=WHICH, when=WHEN)
    def a_call_ends_well(self, which: int, when: str) -> None:
        wire = self.world.held[which % len(self.world.held)]
        self.happen(lambda: self.world.release(wire), when)

    @precondition(lambda self: self.world.wires)
    @rule(which=WHICH, when=WHEN)
    def a_connection_is_lost(self, which: int, when: str) -> None:
        wire = self.world.wires[which % len(self.world.wires)]
        self.happen(lambda: self.world.lose(wire) if wire in self.world.wires else None, when)

    @precondition(lambda self: self.world.pending)
    @rule(which=WHICH, when=WHEN)
    def a_caller_leaves(self, which: int, when: str) -> None:
        call = self.world.pending[which % len(self.world.pending)]
        self.happen(lambda: call.task and call.task.cancel(), when)

    @rule(seconds=st.sampled_from([1.0, 4.0, WAIT, KEEP + 1.0]))
    def time_passes(self, seconds: float) -> None:
        world = self.world
        if not self.TIMERS_RACE:
            world.settle()
        world.loop.now += seconds
        world.pool.sweep(world.loop.now)
        assert all(world.loop.now - wire.idle_since <= KEEP for wire in world.idle)
        world.settle()
        assert all(world.loop.now - call.at < WAIT for call in world.queued)

    @precondition(lambda self: not self.closed)
    @rule(really=st.sampled_from([False, False, False, True]))
    def the_gateway_stops(self, really: bool) -> None:
        if really:
            self.closed = True
            self.world.pool.close()
            assert self.world.idle == []

    @invariant()
    def there_are_never_too_many(self) -> None:
        world = self.world
        assert world.in_use <= world.limit
        assert world.pool.waiting <= world.max_waiting
        assert world.wrong == []

    @invariant()
    def nobody_sleeps_while_there_is_room(self) -> None:
        world = self.world
        if not world.loop._ready:
            assert world.pool.waiting == len(world.queued)
            assert not world.queued or (world.in_use == world.limit and world.idle == [])
            active = len(world.wires) - len(world.idle)
            assert repr(world.pool) == f"Pool({active} active, {len(world.idle)} idle, {len(world.queued)} waiting)"
            assert not self.closed or world.idle == []

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.end_with_all_places()


class PoolInOrder(PoolInRaces):
    """Whatever happens has happened before the next thing does; so what each call gets can be foretold."""

    def happen(self, event: Callable[[], object], when: str) -> None:
        event()
        self.world.settle()

    @rule(to=st.sampled_from(TARGETS), when=st.just("now"))
    def somebody_calls(self, to: Target, when: str) -> None:
        world = self.world
        idle = [wire.idle_since for wire in world.idle if wire.target is to]
        oldest = min((wire.idle_since for wire in world.idle), default=0.0)
        room, full = world.in_use < world.limit, len(world.queued) >= world.max_waiting
        others = len(world.idle)
        call = world.call(to)
        if idle:
            assert world.held[-1].idle_since == max(idle), "the connection that was used last serves next"
            return
        world.settle()
        if room:
            assert call.opening is not None
        elif others:
            assert call.opening is not None
            assert len(world.idle) == others - 1, "one idle connection gave up its place"
            assert all(wire.idle_since >= oldest for wire in world.idle)
        elif full:
            assert isinstance(world.refused.pop()[1], Overloaded)
        else:
            assert world.queued[-1:] == [call]

    @invariant()
    def first_come_first_served(self) -> None:
        assert self.world.unfair == []

    @invariant()
    def a_place_in_the_queue_is_kept_until_its_time_is_over(self) -> None:
        early = [error for _, error, waited in self.world.refused if isinstance(error, Overloaded) and waited < WAIT]
        assert early == []


class PoolAtDeadlines(PoolInRaces):
    """Things happen in the very turn in which somebody's time is over."""

    TIMERS_RACE = True


TestPoolInRaces = PoolInRaces.TestCase
TestPoolInRaces.settings = settings(max_examples=150, stateful_step_count=30, deadline=None, derandomize=True)
TestPoolInOrder = PoolInOrder.TestCase
TestPoolInOrder.settings = settings(max_examples=100, stateful_step_count=30, deadline=None, derandomize=True)
TestPoolAtDeadlines = PoolAtDeadlines.TestCase
TestPoolAtDeadlines.settings = TestPoolInRaces.settings


@pytest.fixture
def world() -> Iterator[World]:
    """One connection, held by a call; two others may wait."""
    world = World(limit=1, max_waiting=2)
    world.call(TARGETS[0])
    world.settle()
    world.opening[0].set_result(None)
    world.settle()
    yield world
    world.end()


def test_a_place_that_comes_with_the_deadline_is_not_lost(world: World) -> None:
    world.call(TARGETS[0])
    world.settle()
    world.loop.call_soon(world.release, world.held[0])
    world.loop.now += WAIT
    world.settle()
    world.lose(world.wires[0])
    late = world.call(TARGETS[0])
    world.settle()
    assert late.opening is not None


def test_a_call_that_waits_is_not_refused_because_the_queue_has_filled_up_behind_it(world: World) -> None:
    first = world.call(TARGETS[0])
    world.settle()
    world.release(world.held[0])
    for _ in range(2):  # they come before the one that waits has come to take its connection
        world.call(TARGETS[0])
        world.loop.run_until_complete(asyncio.sleep(0))
    world.settle()
    assert first.served
    assert world.refused == []


def test_a_call_that_waits_is_served_before_those_that_came_later(world: World) -> None:
    first, second = world.call(TARGETS[0]), world.call(TARGETS[0])
    world.settle()
    world.release(world.held[0])
    late = world.call(TARGETS[0])
    world.settle()
    assert (first.served, second.served, late.served) == (True, False, False)
    world.release(world.held[0])
    world.settle()
    assert (first.served, second.served, late.served) == (True, True, False)
