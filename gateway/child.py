"""Child: a program that is started, watched, started again when it dies, and stopped in time.

Edge processes, billing workers, the demo upstream and the embedded servers are all kept alive by this. A child is
started by exec, never by fork alone, in a session of its own: Ctrl-C in a terminal reaches the parent only, which
then stops its children in the right order.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.background import Background

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 10.0
SETTLED: Final = 1.0
"""Seconds, the next pause at least, that a child must have been up to count as healthy: then its death is answered
quickly again. So one that dies now and then is away for less time than it is there, and one that dies at once is left
alone for longer and longer.
"""

_PR_SET_PDEATHSIG: Final = 1

_log: Final = logging.getLogger(__name__)


class ChildFailed(Exception):
    """A child ended before it was ready for the first time; the text says why as far as it is known."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What is needed to start a program once."""

    command: Sequence[str | Path]
    environment: Mapping[str, str] | None = None
    """Its whole environment; None: ours."""
    descriptors: tuple[int, ...] = ()
    """File descriptors it inherits, under the same numbers."""
    directory: Path | None = None
    """Where it runs; None: where we do."""
    output: int | None = None
    """File descriptor for its standard output and error; None: ours."""
    user: int | None = None
    """Numeric user and group to run as; None: ours. Only root can change it."""
    dies_with_us: signal.Signals | None = None
    """What Linux sends it when this process is gone, whatever the reason."""


class Child:
    """One program, kept running from `start` to `stop`, each of which happens once."""

    def __init__(
        self,
        name: str,
        launch: Callable[[], Launch],
        *,
        ready: Callable[[], Awaitable[None]] | None = None,
        started: Callable[[], None] | None = None,
        ask_to_stop: Callable[[], None] | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        """`launch` is asked before every start. `ready` returns when the program can do its work; without it, running
        is enough. `started` is called after every start. `ask_to_stop` replaces the `stop_signal`.
        """
        self.name = name
        self.starts = 0
        self._launch = launch
        self._wait_until_ready = ready
        self._started = started
        self._ask_to_stop = ask_to_stop
        self._stop_signal = stop_signal
        self._background = Background()
        self._process: subprocess.Popen[bytes] | None = None
        self._born = 0.0
        self._keeper: asyncio.Task[None] | None = None
        self._ready = False
        self._pause = FIRST_PAUSE
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """The process that runs now, if one does."""
        return self._process.pid if self._process is not None else None

    @property
    def up_seconds(self) -> float | None:
        """For how long it has been running, None while it does not."""
        return asyncio.get_running_loop().time() - self._born if self._process is not None else None

    @property
    def ready(self) -> bool:
        """Whether it runs and can do its work."""
        return self._ready

    async def start(self) -> None:
        """Starts it and waits until it is ready; from then on it is started again whenever it ends.

        Raises ChildFailed if it ends before that, and OSError if it cannot be started at all.
        """
        end, getting_ready = self._begin()
        self._keeper = self._background.start(self._keep(end, getting_ready), f"{self.name}-keeper")
        try:
            await asyncio.wait({end, getting_ready}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self.stop(0.0)
            raise
        if not self._ready:
            await self.stop(0.0)
            raise ChildFailed(f"{self.name} did not start ({describe(await end)})")

    async def stop(self, deadline_seconds: float) -> None:
        """Asks it to end, waits, and kills it after the deadline. Idempotent; it is not started again."""
        self._stopping = True
        if self._process is not None and self._keeper is not None:
            if deadline_seconds > 0:
                self._ask()
                await asyncio.wait({self._keeper}, timeout=deadline_seconds)
            if self._process is not None:
                if deadline_seconds > 0:
                    _log.warning("%s did not end in %.0f s and is killed", self.name, deadline_seconds)
                self.kill()
                await asyncio.wait({self._keeper}, timeout=5.0)
        await self._background.stop()

    def kill(self) -> None:
        """Ends it at once with SIGKILL, if it runs."""
        if self._process is not None:
            self._process.kill()

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal, if it runs."""
        if self._process is not None:
            self._process.send_signal(number)

    def _ask(self) -> None:
        if self._ask_to_stop is not None:
            self._ask_to_stop()
        else:
            self.signal(self._stop_signal)

    async def _keep(self, end: asyncio.Task[int], getting_ready: asyncio.Task[None]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            status = await end
            was_ready, self._ready = self._ready, False
            self._process = None
            getting_ready.cancel()
            if self._stopping or (self.starts == 1 and not was_ready):
                return
            if was_ready and loop.time() - self._born >= max(SETTLED, self._pause):
                self._pause = FIRST_PAUSE
            _log.error("%s ended (%s); it is started again in %.1f s", self.name, describe(status), self._pause)
            end, getting_ready = await self._begin_again()

    async def _begin_again(self) -> tuple[asyncio.Task[int], asyncio.Task[None]]:
        while True:
            await asyncio.sleep(self._pause)
            self._pause = min(self._pause * 2, LONGEST_PAUSE)
            try:
                return self._begin()
            except OSError as error:
                _log.error("%s could not be started: %s", self.name, error)

    def _begin(self) -> tuple[asyncio.Task[int], asyncio.Task[None]]:
        process = self._spawn()
        end = self._background.start(_end_of(process), f"{self.name}-end")
        return end, self._background.start(self._become_ready(), f"{self.name}-ready")

    async def _become_ready(self) -> None:
        if self._wait_until_ready is not None:
            await self._wait_until_ready()
        self._ready = True

    def _spawn(self) -> subprocess.Popen[bytes]:
        launch = self._launch()
        self.starts += 1
        self._born = asyncio.get_running_loop().time()
        self._process = subprocess.Popen(
            [str(word) for word in launch.command],
            stdin=subprocess.DEVNULL,
            stdout=launch.output,
            stderr=launch.output,
            env=launch.environment,
            cwd=launch.directory,
            pass_fds=launch.descriptors,
            start_new_session=True,
            user=launch.user,
            group=launch.user,
            extra_groups=None if launch.user is None else [],
            # Runs between fork and exec, where only what needs no lock is safe; this is a single system call.
            preexec_fn=_death_signal(launch.dies_with_us),  # noqa: PLW1509
        )
        if self._started is not None:
            self._started()
        return self._process


def describe(status: int) -> str:
    """An exit status in words; a negative one is a signal, as `subprocess` has it."""
    if status >= 0:
        return f"exit status {status}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-status).name}"
    return f"killed by signal {-status}"


async def _end_of(process: subprocess.Popen[bytes]) -> int:
    """Waits for a process to end; its exit status."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except (AttributeError, OSError):  # not Linux, or before 5.3
        while process.poll() is None:  # noqa: ASYNC110 - there is nothing to wait for but time
            await asyncio.sleep(0.05)
        return process.wait()
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    return process.wait()


def _death_signal(number: signal.Signals | None) -> Callable[[], None] | None:
    if number is None or not sys.platform.startswith("linux"):
        return None
    set_option = ctypes.CDLL(None).prctl
    parent = os.getpid()
    arguments = [ctypes.c_ulong(value) for value in (_PR_SET_PDEATHSIG, number, 0, 0, 0)]

    def tie() -> None:
        set_option(*arguments)
        if os.getppid() != parent:  # it was gone before the tie held
            os._exit(1)

    return tie
