"""Revocations: the tokens, sessions and subjects that are revoked; all of them, so that nothing has to be asked."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from gateway.clock import Clock
from gateway.directory.freshness import Freshness
from gateway.directory.look_ups import cannot_tell
from gateway.metrics import Metrics
from gateway.projection import RevocationKind

_ROOM: Final = 0.9
"""Part of the most that are held, below which those are read again that found no room."""

_log: Final = logging.getLogger(__name__)


class Revocations:
    """Names such as `jti:<id>`, each until it may be forgotten (Unix seconds)."""

    def __init__(self, most: int, freshness: Freshness, clock: Clock, metrics: Metrics) -> None:
        self._most = most
        self._freshness = freshness
        self._nanos = clock.nanos
        self._until: dict[str, int] = {}
        self._full = False
        self._count = metrics.gauge("tallygate_directory_revocations", "Revoked tokens, sessions and subjects.")

    def is_revoked(self, kind: RevocationKind, identifier: str) -> bool:
        """Whether it is. Raises StoreDown where nobody can tell: what was heard is too old, or there are too many."""
        if f"{kind}:{identifier}" in self._until:
            return True
        if self._full or self._freshness.lapsed():
            raise cannot_tell()
        return False

    def replace(self, until: Mapping[str, int]) -> None:
        """These are all there are."""
        self._full = False
        self._until = {}
        self.add(until)

    def add(self, until: Mapping[str, int]) -> None:
        """These came; those with 0 were taken back."""
        now = self._nanos() // 10**9
        for name, end in until.items():
            if end <= now:
                self._until.pop(name, None)
            elif len(self._until) < self._most or name in self._until:
                self._until[name] = end
            elif not self._full:
                self._full = True
                _log.error("more than %d revocations: raise directory.revocations", self._most)
        self._count.set(len(self._until))

    @property
    def has_room_again(self) -> bool:
        """Whether some could not be held, and could be now: all of them have to be read again."""
        return self._full and len(self._until) <= self._most * _ROOM

    def prune(self) -> None:
        """Forget those whose time is over: what they revoked is no longer valid anyway."""
        now = self._nanos() // 10**9
        for name in [name for name, end in self._until.items() if end <= now]:
            del self._until[name]
        self._count.set(len(self._until))
