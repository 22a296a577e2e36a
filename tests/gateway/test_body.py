"""Body: whatever its connection and its reader do, nothing is lost, doubled or out of order, and the end is the end."""

from __future__ import annotations

import asyncio
import re

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.body import HIGH_WATER, Body, BodyTooLarge
from tests.fixtures.source import Told
from tests.fixtures.turns import Turns

SIZES = st.sampled_from([1, 2, 10, 100_000, 200_000, HIGH_WATER, HIGH_WATER + 1])


class Broken(Exception):
    """What a connection fails with."""


class BodyAnyHow(RuleBasedStateMachine):
    """A connection feeds it, a reader takes from it at once or waits, as a task or a Drive, and may stop waiting.

    `left` is what arrived and was not taken yet. After a failure or a refusal the connection may go on for a while, and
    what is whole already may be refused.
    """

    def __init__(self) -> None:
        super().__init__()
        self.turns = Turns()
        self.told = Told()
        self.body = Body(self.told)
        self.left = b""
        self.arrived = 0
        self.error: type[Exception] | None = None
        self.complete = self.ended = self.closed = self.reading = False
        self.wrong: list[str] = []
        self.work: list[object] = []

    @initialize(limit=st.sampled_from([None, None, 5, 250_000]))
    def limited(self, limit: int | None) -> None:
        if limit is not None:
            self.body.limit = limit

    # The connection

    @precondition(lambda self: not self.ended and (self.error or not self.closed))
    @rule(sizes=st.lists(SIZES, min_size=1, max_size=3))
    def feed(self, sizes: list[int]) -> None:
        for size in sizes:
            piece = bytes([self.arrived % 251]) * size
            self.body.feed(piece)
            self.arrived += size
            if self.error is None:
                self.left += piece
                if self.arrived > self.body.limit:
                    self._refused()

    @precondition(lambda self: self.arrived or self.reading)
    @rule(how=st.sampled_from(["finish", "finish", "finish", "fail", "refuse", "close", "fail and finish"]))
    def end(self, how: str) -> None:
        """What ends a body, or would have; a closed one is not read any more."""
        if "fail" in how:
            self.body.fail(Broken())
            if not self.complete:
                self.error = self.error or Broken
        if "finish" in how and not self.ended:
            self.body.finish()
            self.ended = True
            self.complete = self.error is None
        if how == "refuse":
            self.body.refuse()
            self._refused()
        if how == "close":
            self.body.close()
            self.left, self.closed = b"", True

    def _refused(self) -> None:
        self.error, self.complete = self.error or BodyTooLarge, False
        self.left, self.closed = b"", True

    # The reader

    @precondition(lambda self: not self.reading)
    @rule()
    def take(self) -> None:
        try:
            piece = self.body.take()
        except (Broken, BodyTooLarge) as error:
            self._failed(error)
        else:
            self._took(piece)

    @precondition(lambda self: not self.reading)
    @rule(driven=st.booleans())
    def wait(self, driven: bool) -> None:
        self.reading = True
        self.work = [self.turns.drive(self._next()) if driven else self.turns.task(self._next())]

    @precondition(lambda self: self.reading)
    @rule()
    def stop_waiting(self) -> None:
        self.work[0].cancel()  # type: ignore[attr-defined]

    @rule(times=st.integers(1, 3))
    def turns_pass(self, times: int) -> None:
        self.turns.turn(times)
        assert not self.reading or times < 3 or not (self.left or self.complete or self.error), "it sleeps on"

    async def _next(self) -> None:
        try:
            self._took(await self.body.next())
        except (Broken, BodyTooLarge) as error:
            self._failed(error)
        except asyncio.CancelledError:
            pass
        finally:
            self.reading = False

    def _took(self, piece: tuple[bytes, bool] | None) -> None:
        """All that is left, and whether that is all; nothing only while there is nothing to say."""
        expected = (self.left, self.complete) if self.left or self.complete else None
        if self.error is not None and expected is None:
            self.wrong.append("a failure was not told")
        if piece != expected:
            self.wrong.append("what was taken is not what was left")
        self.left = b""

    def _failed(self, error: Exception) -> None:
        if self.left or self.complete or type(error) is not self.error:
            self.wrong.append(f"{error!r} came for no reason, or before what had arrived")

    # What holds at any time

    def held(self) -> bool:
        return self.told.said[-1:] == ["pause"]

    @invariant()
    def nothing_went_wrong(self) -> None:
        assert self.wrong == []
        assert self.body.complete == self.complete
        assert type(self.body.error) is (self.error or type(None))
        assert self.body.received == self.arrived

    @invariant()
    def the_source_is_paused_while_too_much_waits(self) -> None:
        assert re.fullmatch("(pause resume )*(pause )?(abandon )?", " ".join([*self.told.said, ""]))
        assert self.closed or "abandon" not in self.told.said
        if not self.closed:
            assert self.held() or self.complete or len(self.left) <= HIGH_WATER
            assert not self.held() or (self.left and not self.complete)

    def teardown(self) -> None:
        self.turns.close()
        assert not self.reading
        assert self.wrong == []


TestBodyAnyHow = BodyAnyHow.TestCase
TestBodyAnyHow.settings = settings(max_examples=150, stateful_step_count=25, deadline=None, derandomize=True)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    pieces=st.lists(st.binary(min_size=1, max_size=8), max_size=6),
    ahead=st.integers(0, 6),
    limit=st.integers(0, 30),
    again=st.integers(0, 3),
)
def test_a_body_that_was_read_can_be_sent_on_any_number_of_times(
    pieces: list[bytes], ahead: int, limit: int, again: int
) -> None:
    """`ahead` pieces have arrived before the reader comes."""
    turns, told, whole, got = Turns(), Told(), b"".join(pieces), list[bytes | None]()
    body = Body(told)

    async def read() -> None:
        try:
            got.append(await body.read(limit))
        except BodyTooLarge:
            got.append(None)

    for piece in pieces[:ahead]:
        body.feed(piece)
    turns.task(read())
    for piece in pieces[ahead:]:
        if not got:
            body.feed(piece)
            turns.turn(2)
    if not got:
        body.finish()
        turns.turn(2)
    assert got == [whole if len(whole) <= limit else None]
    assert told.said == (["invite"] if len(whole) <= limit else ["invite", "abandon"])
    if len(whole) <= limit:
        for _ in range(again):
            assert body.take() == (whole, True)
            assert body.rewind()
        assert body.take() == (whole, True)
    turns.close()


@given(pieces=st.lists(st.binary(min_size=1, max_size=8), max_size=4), taken=st.booleans())
def test_a_body_that_was_not_read_begins_again_only_if_nothing_was_taken(pieces: list[bytes], taken: bool) -> None:
    body = Body()
    for piece in pieces:
        body.feed(piece)
    if taken:
        body.take()
    assert body.rewind() == (not (taken and pieces))
    if not taken:
        body.finish()
        assert body.take() == (b"".join(pieces), True)
