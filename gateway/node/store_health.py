"""Store health: whether the stores answer, since when, and how far billing is behind, for /ready and /metrics.

The supervisor looks, once for all processes. A store that is down is reported and nothing else: edges go on without.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from gateway.background import Background
from gateway.clock import Clock
from gateway.metering.stream import GROUP, stream_name
from gateway.metrics import Metrics
from gateway.stores.redis import Redis
from gateway.stores.store import StoreUnavailable

LOOK_SECONDS: Final = 1.0
_DEADLINE: Final = 2.0
_QUESTION: Final = struct.pack(">II", 8, 80877104)
"""A GSSENCRequest: PostgreSQL answers everybody with one byte, and logs nothing when that was all."""


@dataclass(slots=True)
class Condition:
    """Whether a store answered last time, None before the first time, and since when that is so (monotonic)."""

    up: bool | None = None
    since: float = 0.0
    reason: str = ""


class StoreHealth:
    """Asks Redis and PostgreSQL every second."""

    def __init__(self, redis: Redis, postgres: str | None, shards: int, *, metrics: Metrics, clock: Clock) -> None:
        """`postgres` is its URL, None where it is not known. Nobody logs in: billing holds the accounts."""
        self._redis = redis
        self._postgres = postgres
        self._streams = [stream_name(shard) for shard in range(shards)]
        self._clock = clock
        self._conditions = {"redis": Condition()} | ({"postgres": Condition()} if postgres is not None else {})
        up = metrics.gauge("tallygate_store_up", "Whether the store answered: 1 or 0.", ("store",))
        self._up = {store: up.labels(store) for store in self._conditions}
        entries = metrics.gauge("tallygate_stream_entries", "Entries in a usage stream.", ("shard",))
        lag = metrics.gauge(
            "tallygate_stream_lag", "Entries of a usage stream that billing is not done with.", ("shard",)
        )
        self._entries = [entries.labels(str(shard)) for shard in range(shards)]
        self._lag = [lag.labels(str(shard)) for shard in range(shards)]

    def start(self, background: Background) -> None:
        """Looks until `background` stops."""
        background.every(LOOK_SECONDS, self.look_at_redis, "redis-health", at_once=True)
        if self._postgres is not None:
            background.every(LOOK_SECONDS, self.look_at_postgres, "postgres-health", at_once=True)

    def report(self) -> dict[str, dict[str, Any]]:
        """Per store: its state, `up`, `down` or `unknown`, for how many seconds, and why it is down."""
        now = self._clock.monotonic()
        return {
            store: {
                "state": "unknown" if condition.up is None else "up" if condition.up else "down",
                "since_seconds": round(now - condition.since, 1) if condition.up is not None else 0.0,
            }
            | ({"reason": condition.reason} if condition.reason else {})
            for store, condition in self._conditions.items()
        }

    async def look_at_redis(self) -> None:
        """Asks for the state of all streams."""
        try:
            states = await self._redis.stream_states(self._streams, GROUP)
        except StoreUnavailable as error:
            self._note("redis", str(error))
            return
        self._note("redis", "")
        for state, entries, lag in zip(states, self._entries, self._lag, strict=True):
            entries.set(state.length)
            lag.set(state.undelivered + state.pending)

    async def look_at_postgres(self) -> None:
        """Asks something that needs no account: where PostgreSQL hangs, connections are taken all the same."""
        try:
            async with asyncio.timeout(_DEADLINE):
                reader, writer = await _connect(self._postgres or "")
                try:
                    writer.write(_QUESTION)
                    await reader.read(1)  # a proxy that hangs up at such a question lives, too
                finally:
                    writer.close()
                    with contextlib.suppress(OSError):
                        await writer.wait_closed()
        except TimeoutError:
            self._note("postgres", f"no answer within {_DEADLINE:g} s")
        except OSError as error:
            self._note("postgres", error.strerror or "no connection")
        else:
            self._note("postgres", "")

    def _note(self, store: str, reason: str) -> None:
        condition = self._conditions[store]
        if condition.up is not (not reason):
            condition.up, condition.since = not reason, self._clock.monotonic()
        condition.reason = reason
        self._up[store].set(0.0 if reason else 1.0)


async def _connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to where a postgresql:// URL points. Raises OSError."""
    parts = urlsplit(url)
    host = parse_qs(parts.query).get("host", [unquote(parts.hostname or "localhost")])[0]
    port = parts.port or 5432
    if host.startswith("/"):
        return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
    return await asyncio.open_connection(host, port)
