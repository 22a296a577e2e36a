"""Interruption: SIGTERM and Ctrl-C. The first one asks for an orderly end, the second one for an end at once.

SIGHUP asks for a reload; but if the terminal in which we run is gone, that is what it says, and it asks for an end.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Self

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_LAST_SECONDS: Final = 10.0
"""What an orderly end that was told to hurry may still take."""

_log: Final = logging.getLogger(__name__)


class Interruption:
    """Listens for the signals while it is entered."""

    def __init__(self, reload: Callable[[], None] = lambda: None) -> None:
        self._reload = reload
        self._in_terminal = _has_terminal()
        self._asked = asyncio.Event()
        self._urgent = False
        self._limit: asyncio.Timeout | None = None
        self._hurry: Callable[[], None] | None = None

    async def __aenter__(self) -> Self:
        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self.interrupt)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.hang_up)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number in (*_SIGNALS, signal.SIGHUP):
            asyncio.get_running_loop().remove_signal_handler(number)

    def hang_up(self) -> None:
        """What SIGHUP does."""
        if self._in_terminal and not _has_terminal():
            self.interrupt()
        else:
            self._reload()

    def interrupt(self) -> None:
        """What SIGTERM and Ctrl-C do."""
        self._urgent = self._asked.is_set()
        self._asked.set()
        now = asyncio.get_running_loop().time()
        if self._hurry is not None:
            if self._urgent:
                self._hurry()
                self._limit_to(now + _LAST_SECONDS)
        else:
            self._limit_to(now)

    async def wait(self) -> None:
        """Returns when an end is asked for."""
        await self._asked.wait()

    async def unless_asked(self, work: Awaitable[None]) -> bool:
        """Does `work`, or cancels it when an end is asked for; whether it was done. Raises what it raises."""
        self._limit = limit = asyncio.timeout(0 if self._asked.is_set() else None)
        try:
            async with limit:
                await work
        except TimeoutError:
            if not limit.expired():
                raise
            return False
        finally:
            self._limit = None
        return True

    async def unless_urgent(self, work: Awaitable[None], hurry: Callable[[], None]) -> None:
        """Does `work`, an orderly end. At the second signal, also one that came before, calls `hurry`, which must make
        it end soon; what has not ended by then is cancelled.
        """
        self._hurry = hurry
        self._limit = limit = asyncio.timeout(None)
        try:
            async with limit:
                if self._urgent:
                    self.interrupt()
                await work
        except TimeoutError:
            if not limit.expired():
                raise
            _log.warning("not everything ended within %g s, and is broken off", _LAST_SECONDS)
        finally:
            self._limit = self._hurry = None

    def _limit_to(self, when: float) -> None:
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(when)


def _has_terminal() -> bool:
    """Whether we run in a terminal that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
