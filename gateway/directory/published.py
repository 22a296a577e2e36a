"""Published: all that a process knows of what the control plane has published; it lives as long as the process."""

from __future__ import annotations

import contextlib
import logging
from asyncio import timeout
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from gateway.background import Background
from gateway.clock import Clock
from gateway.directory.caller import Caller, Organization
from gateway.directory.changes import Changes
from gateway.directory.freshness import Freshness
from gateway.directory.look_ups import TRIPS, LookUps
from gateway.directory.options import DirectoryOptions
from gateway.directory.revocations import Revocations
from gateway.directory.table import Held, Kind, Table, Unreadable
from gateway.metrics import Metrics
from gateway.projection import (
    VERSION,
    KeyRecord,
    OrganizationRecord,
    decode_key,
    decode_organization,
    keys_key,
    name_digest,
    organizations_key,
)
from gateway.stores.redis import Redis

R = TypeVar("R", KeyRecord, OrganizationRecord)

CONNECTIONS: Final = TRIPS + 1
"""What it takes of a store: one to follow changes, the others for look-ups."""
_START_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 1.0
_PRUNE_SECONDS: Final = 60.0

_log: Final = logging.getLogger(__name__)


class Published:
    """`keys` finds callers by the SHA-256 of their key, `organizations` by that of their name (`name_digest`)."""

    def __init__(
        self, options: DirectoryOptions, redis: Redis, *, deadline: float, clock: Clock, metrics: Metrics
    ) -> None:
        """`redis` is for this alone and has `CONNECTIONS`; a request waits for it no longer than `deadline` seconds."""
        self._background = Background()
        self._freshness = freshness = Freshness(options.max_staleness, clock.monotonic)
        look_ups = LookUps(redis, self._background, metrics, deadline=deadline)
        self.keys = Table(
            _KEYS, options.cache, options, look_ups=look_ups, freshness=freshness, clock=clock, metrics=metrics
        )
        most = options.organizations
        self.organizations = Table(
            _ORGANIZATIONS, most, options, look_ups=look_ups, freshness=freshness, clock=clock, metrics=metrics
        )
        self.revocations = Revocations(options.revocations, freshness, clock, metrics)
        self._changes = Changes(
            redis,
            freshness,
            self.revocations,
            on_key=self.keys.drop,
            on_organization=self._leave,
            clock=clock,
            metrics=metrics,
        )
        self._staleness = metrics.gauge(
            "tallygate_directory_staleness_seconds", "How long ago it was last certain that all changes were heard."
        )

    async def start(self) -> None:
        """Begin to follow what is published. Returns when it is followed, or soon if it cannot be now."""
        _ = self._background.start(self._changes.run(), "changes of callers")
        self._background.every(_LOOK_SECONDS, self._measure, "staleness of callers")
        self._background.every(_PRUNE_SECONDS, self.revocations.prune, "revocations that are over")
        with contextlib.suppress(TimeoutError):
            async with timeout(_START_SECONDS):
                await self._changes.heard.wait()

    async def stop(self) -> None:
        """Nothing is looked up or followed any more. Idempotent."""
        await self._background.stop()

    def _leave(self, organization: str) -> None:
        self.organizations.drop(name_digest(organization))
        self.keys.leave(organization)

    def _measure(self) -> None:
        self._staleness.set(self._freshness.staleness())


def _read_key(value: bytes) -> Held[Caller]:
    record = _decoded(decode_key, value)
    ends = record.expires_at * 10**9 if record.expires_at is not None else None
    caller = _caller(record) if record.revoked_at is None else None
    return Held(caller, ends=ends, organization=record.organization)


def _caller(record: KeyRecord) -> Caller | None:
    """None for one whose name cannot be passed on."""
    try:
        return Caller(record)
    except ValueError as error:
        _log.error("key %r is refused: %s", record.id, error)
        return None


def _read_organization(value: bytes) -> Held[Organization]:
    record = _decoded(decode_organization, value)
    return Held(None if record.disabled else Organization(record))


def _decoded(decode: Callable[[bytes], R], value: bytes) -> R:
    """Raises Unreadable."""
    try:
        record = decode(value)
    except msgspec.DecodeError as error:
        raise Unreadable(str(error)) from error
    if record.v > VERSION:
        raise Unreadable(f"version {record.v} is newer than this program")
    return record


_KEYS: Final = Kind("keys", keys_key, _read_key)
_ORGANIZATIONS: Final = Kind("organizations", organizations_key, _read_organization)
