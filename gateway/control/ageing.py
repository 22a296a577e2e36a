"""Ageing: what has grown old is forgotten: answers to idempotency keys, revocations that are over, and, where an
operator has said for how long it is kept, the audit log.
"""

from __future__ import annotations

from typing import Final

from gateway.clock import Clock
from gateway.postgres import Connection

_EVERY_SECONDS: Final = 60.0
_AT_ONCE: Final = 5000
"""Entries of the audit log that are forgotten in one turn; each time leaves an entry itself."""


class Ageing:
    """What whoever publishes calls now and then, in a session as `PUBLISHER`."""

    def __init__(self, clock: Clock, audit_retention: float | None) -> None:
        """The audit log is kept for so many seconds; None: for ever."""
        self._clock = clock
        self._audit_retention = audit_retention
        self._next = 0.0

    async def forget(self, session: Connection) -> None:
        """Once a minute, however often it is called."""
        now = self._clock.monotonic()
        if now < self._next:
            return
        self._next = now + _EVERY_SECONDS
        await session.run("forget_answers")
        await session.run("forget_revocations")
        if self._audit_retention is not None:
            await session.run("forget_audit", self._audit_retention, _AT_ONCE)
