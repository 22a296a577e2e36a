"""Renewal: a TLS context that is made of files, and made anew when they change; in a thread, as it takes its time.

Handshakes take the context that is current; connections keep the one they began with. Whoever replaces a certificate
and its key replaces two files one after the other: a change counts once the files have stayed the same for a look. What
cannot be used changes nothing.
"""

from __future__ import annotations

import logging
import math
import os
from asyncio import get_running_loop
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ssl import SSLContext
from typing import TYPE_CHECKING, Final, TypeAlias

from gateway.tls.certificate import Presented, Unusable

if TYPE_CHECKING:
    from gateway.background import Background
    from gateway.metrics import Metrics

LOOK_SECONDS: Final = 2.0
"""How often the files are looked at."""

Stamps: TypeAlias = list[tuple[int, int, int] | None]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Made:
    """A context, and the certificates that it presents. `warnings` are for an operator."""

    context: SSLContext
    presented: Sequence[Presented]
    warnings: Sequence[str]


class Renewal:
    """`context` is the one that counts now, from `start` on. `owner` is what it belongs to, in logs and metrics."""

    context: SSLContext

    def __init__(self, owner: str, files: Sequence[str], make: Callable[[], Made], metrics: Metrics) -> None:
        self._owner = owner
        self._files = files
        self._make = make
        self._expiry = metrics.gauge(
            "tallygate_tls_certificate_expiry_timestamp_seconds",
            "When a certificate that is presented expires, or one of its chain: seconds since the Unix epoch.",
            ("certificate",),
        )
        self._success = metrics.gauge(
            "tallygate_tls_certificate_reload_success",
            "Whether the files of this listener, upstream or issuer could be used when they last changed: 1 or 0.",
            ("owner",),
        ).labels(owner)
        self._usable = True
        self._presented: Sequence[Presented] = ()

    async def start(self, background: Background) -> None:
        """Make the first context, and begin to look at the files. Raises Unusable."""
        self._used = self._seen = self._look()
        self._take(await get_running_loop().run_in_executor(None, self._make))
        self._show()
        if self._files:
            background.every(LOOK_SECONDS, self._renew, f"certificates of {self._owner}")

    def leave(self) -> None:
        """It is not used any more: its metrics go. Another one shows at its next look what both have shown."""
        self._success.set(math.nan)
        for presented in self._presented:
            self._expiry.labels(presented.path).set(math.nan)

    async def _renew(self) -> None:
        await self._take_changes()
        self._show()

    async def _take_changes(self) -> None:
        before, self._seen = self._seen, self._look()
        if self._seen == self._used or self._seen != before:
            return
        self._used = self._seen
        try:
            made = await get_running_loop().run_in_executor(None, self._make)
        except Unusable as error:
            self._usable = False
            log.error("%s: its new certificate files are not used: %s", self._owner, error)
        else:
            log.info("%s: its certificate files have changed, and are in use", self._owner)
            self._take(made)

    def _take(self, made: Made) -> None:
        self.context = made.context
        self._usable = True
        self._presented = made.presented
        for warning in made.warnings:
            log.warning("%s: %s", self._owner, warning)

    def _show(self) -> None:
        self._success.set(float(self._usable))
        for presented in self._presented:
            self._expiry.labels(presented.path).set(presented.expires_at)

    def _look(self) -> Stamps:
        return [_stamp(file) for file in self._files]


def _stamp(file: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
