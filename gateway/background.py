"""Background: the one place that makes tasks, so that none is lost, none crashes unheard and none outlives its owner.

The event loop keeps only weak references to tasks, and an exception in a task nobody awaits is reported when the task
is collected, if ever. Hence the bare `asyncio.create_task` is banned everywhere else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)


class Background:
    """The tasks of one owner. How many there are is bounded by whoever starts them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopped = False

    def __len__(self) -> int:
        """How many are running."""
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Runs `work`; should it raise, that is logged. Raises RuntimeError after `stop`."""
        if self._stopped:
            work.close()
            raise RuntimeError(f"{name} was started after its owner had stopped")
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def every(
        self, seconds: float, job: Callable[[], Awaitable[None] | None], name: str, *, at_once: bool = False
    ) -> None:
        """Runs `job` every `seconds` until `stop`, first after `seconds` unless `at_once`.

        One run ends before the next begins; runs missed meanwhile are left out. A run that raises is logged, the first
        of several in a row with its traceback, and does not end the series.
        """
        _ = self.start(_repeat(seconds, job, name, at_once), name)

    def measure_lag(self, observe: Callable[[float], None], seconds: float = 0.1) -> None:
        """Tells `observe`, every `seconds`, by how many seconds the event loop was late: its other callers' turns."""
        _ = self.start(_measure_lag(observe, seconds), "event-loop-lag")

    async def stop(self, deadline_seconds: float = 5.0) -> None:
        """Cancels what is running and waits for it to end; what does not is logged and left. Idempotent."""
        self._stopped = True
        running = self._tasks - {asyncio.current_task()}
        for task in running:
            task.cancel()
        if running:
            _, stuck = await asyncio.wait(running, timeout=deadline_seconds)
            for task in stuck:
                _log.error("task %s ignores that it was cancelled", task.get_name())

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("task %s crashed", task.get_name(), exc_info=error)


async def _repeat(seconds: float, job: Callable[[], Awaitable[None] | None], name: str, at_once: bool) -> None:
    loop = asyncio.get_running_loop()
    due = loop.time() + (0.0 if at_once else seconds)
    failures = 0
    while True:
        await asyncio.sleep(due - loop.time())
        try:
            pending = job()
            if pending is not None:
                await pending
        except Exception as error:  # noqa: BLE001 - whatever a job raises, the next run may succeed
            failures += 1
            if failures == 1:
                _log.error("job %s failed; it goes on", name, exc_info=error)
        else:
            if failures:
                _log.info("job %s succeeded after %d failures", name, failures)
            failures = 0
        due = max(due + seconds, loop.time())


async def _measure_lag(observe: Callable[[float], None], seconds: float) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + seconds
        await asyncio.sleep(seconds)
        observe(max(0.0, loop.time() - due))
