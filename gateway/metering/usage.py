"""Usage: what one process holds to account for what it serves: its journal, its shipper, its backlog."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from pathlib import Path
from typing import Final

from pydantic import Field

from gateway.background import Background
from gateway.clock import Clock
from gateway.metering.backlog import Backlog
from gateway.metering.directory import Directory
from gateway.metering.journal import Journal, JournalOptions
from gateway.metering.shipper import FrameOptions, Shipper
from gateway.metrics import Metrics
from gateway.options import Duration, Options
from gateway.stores.redis import Redis
from gateway.stores.store import StoreUnavailable

_TEND_SECONDS: Final = 0.05
_CHECK_SECONDS: Final = 0.5
_RESEND_SECONDS: Final = 1.0
_LONG_BACKLOG: Final = 64
"""With so many closed segments waiting, closing another one because of its age would bring nothing forward."""

_log: Final = logging.getLogger(__name__)


class UsageOptions(Options):
    """How usage gets from the answer it belongs to into the books."""

    journal: JournalOptions = JournalOptions()
    """Where it is written down first."""
    frame: FrameOptions = FrameOptions()
    """How it travels."""
    shards: int = Field(default=16, ge=1, le=256)
    """Streams it is spread over, by organization. The same on every node; change it only when the streams are empty."""
    resend_after: Duration = Field(default=10.0, gt=0)
    """How long a closed segment waits to be accounted for before it is sent again."""
    node: str = Field(default="", pattern=r"^[A-Za-z0-9_.-]{0,64}$")
    """This machine's id in the books; by default one made at random and kept in the journal directory."""


class Usage:
    """The way of usage events out of one process. It works without Redis for as long as the journal has room."""

    def __init__(self, options: UsageOptions, *, redis: Redis, clock: Clock, metrics: Metrics) -> None:
        """Claims a directory of its own in the journal's. Raises JournalUnusable.

        `redis` is one whose deadline suits background work; no request ever waits for it.
        """
        self.directory = open_directory(options)
        self.boot = os.urandom(8).hex()
        self._place = self.directory.claim(self.boot)
        self._shipper = Shipper(redis, options.frame, shards=options.shards, metrics=metrics)
        self.backlog = Backlog(
            redis,
            node=self.directory.node,
            shards=options.shards,
            resend_after=options.resend_after,
            clock=clock,
            metrics=metrics,
        )
        self.journal = Journal(
            options.journal,
            boot=self._place,
            clock=clock,
            metrics=metrics,
            ship=self._shipper.add,
            closed=self.backlog.add,
        )
        self._background = Background()

    @property
    def node(self) -> str:
        """The id of this machine in the books."""
        return self.directory.node

    async def start(self) -> None:
        """Begins to send. That the store is down is no error."""
        self._tend()
        _ = self._background.start(self._shipper.run(), "shipper")
        self._background.every(_TEND_SECONDS, self._tend, "journal")
        self._background.every(_CHECK_SECONDS, self._check, "backlog")
        self._background.every(_RESEND_SECONDS, self.backlog.resend, "resend")

    def _tend(self) -> None:
        self.journal.tend(close_old=len(self.backlog) < _LONG_BACKLOG)

    async def _check(self) -> None:
        await self.backlog.check()
        self.journal.carry(self.backlog.kept_for_starts())

    async def stop(self, deadline_seconds: float) -> None:
        """Writes no more, sends what is left and waits until it is accounted for, for at most `deadline_seconds`.

        What is not stays on disk for adoption. Afterwards nothing may be appended.
        """
        try:
            await self.journal.finish()
            with contextlib.suppress(TimeoutError, StoreUnavailable):
                async with asyncio.timeout(deadline_seconds):
                    await self._shipper.flush()
                    while self.backlog.unaccounted:
                        await self.backlog.check()
                        await asyncio.sleep(_TEND_SECONDS)
        finally:
            await self._background.stop()
            self._leave()

    def _leave(self) -> None:
        try:
            if not self._place.remove():
                _log.info("%d segments stay in the journal for adoption", len(self._place.segments()))
        except OSError as error:
            _log.warning("the journal's directory %s is left behind: %s", self.boot, error)
        self._place.close()


def open_directory(options: UsageOptions) -> Directory:
    """The journal directory these options name. Raises JournalUnusable."""
    journal = options.journal
    return Directory(Path(journal.directory), limit=journal.limit, node=options.node, durable=journal.sync == "disk")
