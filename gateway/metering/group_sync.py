"""Group sync: one fdatasync for all records that were written while the one before it ran.

There is no timer. A lone record is on its way to the disk at once; under load a group is as large as the disk is slow.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final, NamedTuple

from gateway.metering.segment import Segment


class Waiting(NamedTuple):
    """A record that is written and not yet known to be on the disk."""

    segment: Segment
    number: int
    organization: str
    payload: bytes
    durable: asyncio.Future[None]
    repeated: bool


class GroupSync:
    """Takes records, and gives each back when its segment's data is on the disk, or when the disk refused."""

    def __init__(
        self, synced: Callable[[list[Waiting]], None], failed: Callable[[list[Waiting], OSError], None]
    ) -> None:
        self._synced: Final = synced
        self._failed: Final = failed
        self._gathering: list[Waiting] = []
        self._running: asyncio.Future[None] | None = None

    def add(self, waiting: Waiting) -> None:
        """Joins the next group. Until the group is done, the segment counts as `syncing` and must stay open."""
        waiting.segment.syncing += 1
        self._gathering.append(waiting)
        if self._running is None:
            self._start()

    async def drain(self) -> None:
        """Waits until nothing waits."""
        while self._running is not None:
            await asyncio.wait([self._running])

    def _start(self) -> None:
        group, self._gathering = self._gathering, []
        descriptors = {waiting.segment.fd for waiting in group}
        running = asyncio.get_running_loop().run_in_executor(None, _sync, descriptors)
        self._running = running
        running.add_done_callback(lambda future: self._ended(group, future))

    def _ended(self, group: list[Waiting], future: asyncio.Future[None]) -> None:
        self._running = None
        error = future.exception()
        if error is not None:
            # A second sync may report success for data that the first one dropped: whoever gathered failed, too.
            group, self._gathering = group + self._gathering, []
        for waiting in group:
            waiting.segment.syncing -= 1
        if error is None:
            self._synced(group)
        elif isinstance(error, OSError):
            self._failed(group, error)
        else:
            raise error
        if self._gathering and self._running is None:
            self._start()


def _sync(descriptors: set[int]) -> None:
    for descriptor in descriptors:
        os.fdatasync(descriptor)
