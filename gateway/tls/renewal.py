"""Renewal: a TLS context that is made of files, and made anew when they change.

Handshakes take the context that is current; connections keep the one they began with. Whoever replaces a certificate
and its key replaces two files one after the other: a change counts once the files have stayed the same for a look. What
cannot be used changes nothing.
"""

from __future__ import annotations

import logging
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
    """`context` is the one that counts now. `owner` is what it belongs to, in logs and metrics."""

    def __init__(self, owner: str, files: Sequence[str], make: Callable[[], Made], metrics: Metrics) -> None:
        """Raises Unusable."""
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
            "Whether the certificate files of this listener or upstream could be used when they last changed: 1 or 0.",
            ("owner",),
        ).labels(owner)
        self._used = self._seen = self._look()
        self._take(make())

    def start(self, background: Background) -> None:
        """Begin to look at the files."""
        if self._files:
            background.every(LOOK_SECONDS, self._renew, f"certificates of {self._owner}")

    async def _renew(self) -> None:
        before, self._seen = self._seen, self._look()
        if self._seen == self._used or self._seen != before:
            return
        self._used = self._seen
        try:
            made = await get_running_loop().run_in_executor(None, self._make)
        except Unusable as error:
            self._success.set(0.0)
            log.error("%s: its new certificate files are not used: %s", self._owner, error)
        else:
            log.info("%s: its certificate files have changed, and are in use", self._owner)
            self._take(made)

    def _take(self, made: Made) -> None:
        self.context = made.context
        self._success.set(1.0)
        for presented in made.presented:
            self._expiry.labels(presented.path).set(presented.expires_at)
        for warning in made.warnings:
            log.warning("%s: %s", self._owner, warning)

    def _look(self) -> Stamps:
        return [_stamp(file) for file in self._files]


def _stamp(file: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
