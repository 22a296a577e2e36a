"""Server: what the embedded servers have in common: from start to stop, one process in a directory of ours."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from gateway.child import Child, ChildFailed, Launch
from gateway.embedded.home import EmbeddedError, Home
from gateway.stores.address import Server, url_file, write_private


class EmbeddedServer(ABC):
    """One server in `<directory>/<server>`. `start`, then `stop`."""

    title: ClassVar[str]
    """What it is called in messages."""
    stop_signal: ClassVar[signal.Signals]
    """What asks it to end, its data written."""

    def __init__(self, directory: Path, server: Server, mode: int) -> None:
        """`mode` is what others may do in its directory."""
        self.url_file = url_file(directory, server)
        self._server = server
        self._home = Home(self.url_file.parent, mode)
        self._port = 0
        self._password = ""
        self._child: Child | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Its address, with the password; valid once started, and the same after every restart."""

    @property
    def pid(self) -> int | None:
        """The server's process, if it runs."""
        return self._child.pid if self._child is not None else None

    async def start(self) -> None:
        """Starts it, its data made if there are none; it is started again when it dies. Raises EmbeddedError."""
        self._find()
        self._home.take()
        try:
            await self._end_leftover()  # first: it may have the port
            self._port, self._password = self._home.port(), self._home.password()
            await self._prepare()
            self._child = Child(self._server, self._launch, ready=self._ready, stop_signal=self.stop_signal)
            await self._child.start()
            write_private(self.url_file, self.url)
        except (OSError, ChildFailed) as error:
            await self.stop(0.0)
            raise EmbeddedError(f"the embedded {self.title}: {error}: {self._home.last_words()}") from error
        except BaseException:  # cancelled: no process may be left behind
            await self.stop(0.0)
            raise

    async def stop(self, deadline_seconds: float = 20.0) -> None:
        """Stops it, its data written and all connections ended. Idempotent."""
        if self._child is not None:
            await self._child.stop(deadline_seconds)
        if self._home.taken:
            self.url_file.unlink(missing_ok=True)  # so that others say plainly that there is no server
        self._home.release()

    @abstractmethod
    def _find(self) -> None:
        """Finds its programs. Raises EmbeddedError if there are none."""

    @abstractmethod
    async def _end_leftover(self) -> None:
        """Ends a server that a killed run left. Raises EmbeddedError."""

    @abstractmethod
    async def _prepare(self) -> None:
        """Makes what `_launch` needs."""

    @abstractmethod
    def _launch(self) -> Launch:
        """How it is started."""

    @abstractmethod
    async def _ready(self) -> None:
        """Returns when it answers."""
