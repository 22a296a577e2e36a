"""Interruption: SIGTERM and Ctrl-C. The first one asks for an orderly end, the second one for an end at once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Final, Self

from gateway.background import Background

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_LAST_SECONDS: Final = 10.0
"""What an orderly end that was told to hurry may still take."""


class Interruption:
    """Listens for the signals while it is entered."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._urgent = asyncio.Event()
        self._background = Background()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self.interrupt)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
        await self._background.stop()

    def interrupt(self) -> None:
        """What a signal does."""
        (self._urgent if self._asked.is_set() else self._asked).set()

    async def wait(self) -> None:
        """Returns when an end is asked for."""
        await self._asked.wait()

    async def unless_asked(self, work: Coroutine[Any, Any, None]) -> bool:
        """Does `work`, or cancels it when an end is asked for; whether it was done. Raises what it raises."""
        task = self._background.start(work, "interruptible")
        asked = self._background.start(self._asked.wait(), "interruption")
        await asyncio.wait({task, asked}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
            return False
        await task
        return True

    async def unless_urgent(self, work: Coroutine[Any, Any, None], hurry: Callable[[], None]) -> None:
        """Does `work`, an orderly end. When there is no time for it, calls `hurry`, which must make it end soon."""
        task = self._background.start(work, "orderly-end")
        urgent = self._background.start(self._urgent.wait(), "urgent")
        await asyncio.wait({task, urgent}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            hurry()
            await asyncio.wait({task}, timeout=_LAST_SECONDS)
        urgent.cancel()
        if task.done():
            await task
