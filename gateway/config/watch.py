"""Watching the configuration's files: a change is noticed by looking, and taken once nothing changes any more.

Looking works where notifications do not: on network file systems, and where Kubernetes swaps a link to a directory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from pydantic import Field

from gateway.background import Background
from gateway.config.source import Stamp, stamp
from gateway.options import Options

LOOK_SECONDS: Final = 1.0
"""How often is looked; a change is taken when it has lasted from one look to the next."""


class ReloadOptions(Options):
    """How a changed configuration is taken while requests are served; SIGHUP and `POST /reload` always do it."""

    watch: bool = False
    """Reload by itself when the file, or one that it includes or takes a value from, has changed."""
    max_retired: int = Field(default=8, ge=1, le=1000)
    """Earlier configurations that open streams may go on under, per process; beyond it the oldest one's are cut."""


class ConfigWatch:
    """Looks after files while `wanted`, and calls `changed` when they are no longer what was read."""

    def __init__(self, changed: Callable[[], Awaitable[object]], *, wanted: Callable[[], bool]) -> None:
        self._changed = changed
        self._wanted = wanted
        self._read: Mapping[str, Stamp | None] = {}
        self._seen: Mapping[str, Stamp | None] = {}

    def follow(self, files: Mapping[str, Stamp | None]) -> None:
        """From now on these are the files, with the stamps they had when they were read."""
        self._read = self._seen = files

    def start(self, background: Background) -> None:
        """Looks until `background` stops."""
        background.every(LOOK_SECONDS, self.look, "configuration-watch")

    async def look(self) -> None:
        """Compare the files with what was read, and with what was seen the last time."""
        if not self._wanted():
            return
        before, self._seen = self._seen, {file: stamp(file) for file in self._read}
        if self._seen == before != self._read:
            self._read = self._seen  # whatever comes of it, it comes once
            await self._changed()
