"""Programs: what a benchmark starts, on which cores, and that none of it outlives the benchmark."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final

PR_SET_PDEATHSIG: Final = 1  # prctl(2): the signal a process gets when its parent dies
_libc = ctypes.CDLL(None)


class ProgramFailed(Exception):
    """A program the benchmark needs did not start, or did not do what it was started for."""


def on_cores(cores: Iterable[int]) -> Callable[[], None]:
    """What a child does between fork and exec: bind itself to `cores`, and to its parent's life."""
    wanted = set(cores)

    def prepare() -> None:
        os.sched_setaffinity(0, wanted)
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    return prepare


class Programs:
    """The running programs. Leaving the `with` block ends them, the last started first."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def __enter__(self) -> Programs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._running:
            _, process = self._running.pop()
            stop(process)

    def start(
        self, name: str, command: list[str], cores: Iterable[int], environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program; what it prints goes to `<name>.log` in the work directory."""
        with self.log(name).open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                preexec_fn=on_cores(cores),
            )
        self._running.append((name, process))
        return process

    def log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def wait_for(self, what: str, ready: Callable[[], bool], seconds: float) -> None:
        """Wait until `ready` says so. Raises ProgramFailed when a program ends first, or after `seconds`."""
        deadline = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise ProgramFailed(f"{what} was not there after {seconds:.0f} s{self._last_words()}")
            time.sleep(0.05)

    def check(self) -> None:
        """Raises ProgramFailed if one of the programs has ended."""
        for name, process in self._running:
            if process.poll() is not None:
                raise ProgramFailed(f"{name} ended with status {process.returncode}\n{self._tail(name)}")

    def _last_words(self) -> str:
        return "".join(f"\n--- {name}\n{self._tail(name)}" for name, _ in self._running)

    def _tail(self, name: str) -> str:
        return self.log(name).read_text(errors="replace")[-2000:]


def stop(process: subprocess.Popen[bytes], patience: float = 20.0) -> None:
    """End a program: asked first, killed when it does not listen."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    if process.poll() is None:
        process.kill()
        process.wait()


def accepts(port: int) -> bool:
    """Whether something listens on this port of the loopback address."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody uses at the moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
