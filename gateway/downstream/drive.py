"""Drive: runs a coroutine from the stack that makes it, and goes on when what it awaits is done.

A body that streams is a coroutine; as an asyncio task it would begin only in the next turn of the event loop. A Drive
begins at once. Anything that asyncio lets one await works as in a task, but there is no current task:
`asyncio.timeout` needs one. So a chain with hooks that wait is run as a task, and so is what opens connections.
"""

from __future__ import annotations

import logging
from asyncio import AbstractEventLoop, CancelledError, Future
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)


class Drive:
    """Runs `work` to its end. `cancel` is like a task's: what is awaited is cancelled, and `work` hears of it."""

    __slots__ = ("_loop", "_must_cancel", "_waiting", "_work")

    def __init__(self, work: Coroutine[Any, Any, None], loop: AbstractEventLoop) -> None:
        self._work = work
        self._loop = loop
        self._waiting: Future[Any] | None = None
        self._must_cancel = False
        self._step()

    def cancel(self) -> None:
        """Cancel what is awaited; in the next turn of the loop the coroutine sees CancelledError.

        Where nothing can be cancelled, because it is there already or because the coroutine is running, the coroutine
        sees it instead of what comes next.
        """
        if self._waiting is None or not self._waiting.cancel():
            self._must_cancel = True

    def _step(self, _: Future[Any] | None = None) -> None:
        """Go on: what was waited for is there."""
        try:
            if self._must_cancel:
                self._must_cancel = False
                waiting = self._work.throw(CancelledError())
            else:
                waiting = self._work.send(None)
        except StopIteration:
            self._waiting = None
        except BaseException:  # it has no caller that could take it
            self._waiting = None
            log.exception("a driven coroutine crashed")
        else:
            self._waiting = waiting
            if waiting is None:  # a bare turn of the loop, as from asyncio.sleep(0)
                self._loop.call_soon(self._step)
            else:
                waiting._asyncio_future_blocking = False  # as a task says that it has seen the future
                waiting.add_done_callback(self._step)
                if self._must_cancel and waiting.cancel():
                    self._must_cancel = False
