"""Edge process: one slot of a node as its supervisor sees it: the process that lives in it, and what is said to it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Final

import msgspec

from gateway.child import Child, Launch
from gateway.edge.control_pipe import (
    Abort,
    Commit,
    Committed,
    ControlPipe,
    Drain,
    Failed,
    Message,
    Prepare,
    Prepared,
    Ready,
    Refused,
    Report,
    Reported,
)
from gateway.node.generation import Generation
from gateway.upstream.report import UpstreamReport

FLUSH_SECONDS: Final = 10.0
"""What a process may need on top of the drain timeout to close its journal and plugins."""
BUILD_SECONDS: Final = 20.0
"""What a process may need to build a generation, being started again once in between."""
COMMIT_SECONDS: Final = 5.0
"""What a process may need to go over to a generation that it has built."""
REPORT_SECONDS: Final = 0.5
"""What a process may need to say how its upstreams are; whoever asks is a person, or somebody else's program."""

_log: Final = logging.getLogger(__name__)


class EdgeProcess:
    """One slot: the edge process that lives in it, one after another.

    Whoever is started runs the generation that is current then. One that becomes ready when another is current goes
    over to that first; so `child.ready` says that it serves what it should.
    """

    def __init__(
        self, slot: int, current: Callable[[], Generation], command: Callable[[int, Generation, int], list[str]]
    ) -> None:
        """`command` is asked for a command line, given the slot, a generation and the child's end of the pipe."""
        self.slot = slot
        self.failure = ""
        self.generation = 0
        """The number of the generation that it runs."""
        self._current = current
        self._command = command
        self._ends: tuple[socket.socket, socket.socket] | None = None
        self._pipe: ControlPipe | None = None
        self._turn = asyncio.Lock()  # of whoever speaks and hears the answer
        self._hears = asyncio.Event()
        self._prepared = 0
        self._reports = 0
        self._owed: Report | None = None  # a question whose answer nobody has heard
        self._drain: Drain | None = None
        self.child = Child(
            f"edge-{slot}",
            self._launch,
            ready=self._become_ready,
            started=self._started,
            ask_to_stop=self._ask_to_drain,
        )

    async def prepare(self, generation: Generation) -> list[str]:
        """Has it build this generation while it serves on; why it cannot, nothing if it has.

        A process that ends meanwhile is asked once more when it is back: somebody may have killed it.
        """
        name = self.child.name
        try:
            async with asyncio.timeout(BUILD_SECONDS):
                for _ in range(2):
                    await self._hears.wait()
                    async with self._turn:
                        match await self._ask_to_prepare(generation):
                            case Prepared():
                                return []
                            case Refused(errors=errors):
                                return errors
        except TimeoutError:
            return [f"{name} has not built it within {BUILD_SECONDS:g} s"]
        return [f"{name} ended twice while building it"]

    async def commit(self, generation: Generation) -> None:
        """Has it serve with this generation, which has become current."""
        async with self._turn:
            await self._go_over(generation)

    def abort(self, generation: Generation) -> None:
        """Has it forget this generation."""
        if self._pipe is not None:
            _ = self._pipe.say(Abort(generation.number))

    async def report(self) -> list[UpstreamReport] | None:
        """What it knows of its upstreams; None if it does not say so in time, as while it is busy with a reload."""
        if not self.child.ready or self._drain is not None:
            return None
        try:
            async with asyncio.timeout(REPORT_SECONDS), self._turn:
                answer = await self._ask_to_report()
            return answer.read() if isinstance(answer, Reported) else None
        except (TimeoutError, msgspec.DecodeError):
            return None

    async def drain(self, deadline_seconds: float) -> None:
        """Lets it finish what is in flight, and ends it; kills it if it is still there some time after the deadline."""
        self._drain = Drain(deadline_seconds)
        await self.child.stop(deadline_seconds + FLUSH_SECONDS)
        self._hang_up()

    # One life

    def _launch(self) -> Launch:
        generation = self._current()
        self._ends = ControlPipe.pair()
        theirs = self._ends[1].fileno()
        self.generation, self._prepared = generation.number, 0
        return Launch(
            self._command(self.slot, generation, theirs),
            descriptors=(theirs, *generation.descriptors(self.slot)),
        )

    def _started(self) -> None:
        if self._ends is not None:
            self._ends[1].close()  # so that its end closes when it dies

    async def _become_ready(self) -> None:
        async with self._turn:
            self._hang_up()
            if self._ends is not None:
                self._pipe = ControlPipe(self._ends[0].detach())
                self._owed = None
                self._ask_to_drain()  # which may have been meant for it before it could be told
                if not await self._begins():
                    await asyncio.Event().wait()  # it is about to end, and its end is being watched
        self._hears.set()

    async def _begins(self) -> bool:
        """Hears that it serves, and has it catch up with what became current meanwhile; whether all that succeeded."""
        match await self._hear():
            case Ready():
                pass
            case Failed(message):
                self.failure = message
                return False
            case _:
                return False
        while self._drain is None and self.generation != self._current().number:
            if not await self._go_over(self._current()):
                return False
        return True

    # Questions; whoever asks has the turn

    async def _go_over(self, generation: Generation) -> bool:
        """Has it serve with this generation; whether it does. One that lives and does not is killed, so that another
        one is started with what is current.
        """
        number = generation.number
        if self.generation == number:
            return True
        try:
            async with asyncio.timeout(COMMIT_SECONDS if self._prepared == number else BUILD_SECONDS):
                answer = Prepared(number) if self._prepared == number else await self._ask_to_prepare(generation)
                if isinstance(answer, Prepared):
                    answer = await self._ask(Commit(number))
        except TimeoutError:
            answer = Refused(number, ["it did not answer in time"])
        match answer:
            case Committed():
                self.generation = number
                return True
            case Refused(errors=errors):
                _log.error("%s is killed, as it cannot take the configuration: %s", self.child.name, "; ".join(errors))
                self.child.kill()
        return False

    async def _ask_to_prepare(self, generation: Generation) -> Message | None:
        answer = await self._ask(Prepare(generation.number, generation.descriptors(self.slot)))
        self._prepared = generation.number if isinstance(answer, Prepared) else 0
        return answer

    async def _ask_to_report(self) -> Message | None:
        """One question at a time, so that a process which hangs does not come back to a pipe that is full of them."""
        if self._owed is not None:
            late = await self._answer_to(self._owed)
            if not isinstance(late, Reported):
                return None
            late.close()  # who knows how old it is
        self._reports += 1
        self._owed = Report(self._reports)
        return await self._ask(self._owed)

    async def _ask(self, question: Prepare | Commit | Report) -> Message | None:
        """The answer, None if the process has ended."""
        answer = None
        if self._pipe is not None and self._pipe.say(question):
            answer = await self._answer_to(question)
        if answer is None:
            self._hears.clear()
        return answer

    async def _answer_to(self, question: Prepare | Commit | Report) -> Message | None:
        answer = await self._hear()
        while answer is not None and not _answers(answer, question):
            if isinstance(answer, Reported):
                answer.close()
            answer = await self._hear()  # that one came too late for whoever had asked
        return answer

    async def _hear(self) -> Message | None:
        message = await self._pipe.hear() if self._pipe is not None else None
        if isinstance(message, Reported):
            self._owed = None
        return message

    def _ask_to_drain(self) -> None:
        if self._pipe is not None and self._drain is not None:
            _ = self._pipe.say(self._drain)

    def _hang_up(self) -> None:
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.close()


def _answers(answer: Message, question: Prepare | Commit | Report) -> bool:
    if isinstance(question, Report):
        return isinstance(answer, Reported) and answer.number == question.number
    return getattr(answer, "generation", 0) == question.generation
