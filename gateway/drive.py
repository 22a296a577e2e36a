"""Drive: runs a coroutine in the stack of whoever brings what it waits for, without a turn of the event loop between.

A request usually waits once, for its upstream. As an asyncio task it would cost a task, and two turns of the loop: one
to begin and one to go on. A Drive begins at once and goes on at once when an Answer is brought; anything else that
asyncio lets one await works as in a task, but there is no current task: `asyncio.timeout` needs one. So a chain with
a hook that awaits is run as a task, and what opens connections is a task of its own.
"""

from __future__ import annotations

import logging
from asyncio import AbstractEventLoop, Future
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
log = logging.getLogger(__name__)


class Answer(Future[T]):
    """A future whose waiter, if it is a Drive, goes on within `bring`."""

    driver: Drive | None = None

    def bring(self, value: T) -> None:
        """The result is here. Nothing happens if nobody waits for it any more."""
        if not self.done():
            self.set_result(value)
            if self.driver is not None:
                self.driver.step()

    def refuse(self, error: BaseException) -> None:
        """There will be no result."""
        if not self.done():
            self.set_exception(error)
            if self.driver is not None:
                self.driver.step()


class Drive:
    """Runs `work` to its end. `cancel` is like a task's: what is awaited is cancelled, and `work` hears of it."""

    __slots__ = ("_loop", "_waiting", "_work")

    def __init__(self, work: Coroutine[Any, Any, None], loop: AbstractEventLoop) -> None:
        self._work = work
        self._loop = loop
        self._waiting: Future[Any] | None = None
        self.step()

    def step(self) -> None:
        """Go on: what was waited for is there."""
        try:
            waiting = self._work.send(None)
        except StopIteration:
            self._waiting = None
            return
        except BaseException:
            self._waiting = None
            log.exception("a driven coroutine crashed")
            return
        self._waiting = waiting
        if type(waiting) is Answer:
            waiting.driver = self
        elif waiting is None:  # a bare turn of the loop, as from asyncio.sleep(0)
            self._loop.call_soon(self.step)
        else:
            waiting._asyncio_future_blocking = False  # as a task says that it has seen the future
            waiting.add_done_callback(self._wake)

    def cancel(self) -> None:
        """Cancel what is awaited; in the next turn of the loop the coroutine sees CancelledError."""
        waiting = self._waiting
        if waiting is None or waiting.done():
            return
        waiting.cancel()
        if type(waiting) is Answer:
            self._loop.call_soon(self._wake, waiting)

    def _wake(self, waiting: Future[Any]) -> None:
        if waiting is self._waiting:
            self.step()
