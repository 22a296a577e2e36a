"""Changes: follows what the control plane publishes, on a connection that does nothing else.

Each turn asks for the state and waits for changes behind the last one that was heard. Their numbers have no gap; where
one is missing, all were written anew, or the state went back, everything known is in doubt (a new era), and following
begins again from the present. After an outage following goes on where it was, and misses nothing unless there is a gap.
"""

from __future__ import annotations

import logging
import random
from asyncio import Event, sleep
from collections.abc import Callable
from typing import Final

import msgspec

from gateway.clock import Clock
from gateway.directory.freshness import Freshness
from gateway.directory.revocations import Revocations
from gateway.metrics import Metrics
from gateway.projection import CHANGES, COUNT, REVOKED, START, STATE, VERSION, Change, decode_change
from gateway.stores.redis import Entry, Redis
from gateway.stores.store import StoreUnavailable

AT_ONCE: Final = 1000
"""Changes that are read in one turn."""
TURN_SECONDS: Final = 1.0
"""How long a turn waits for a change; so often is confirmed that there was none."""
_INCOMPLETE_SECONDS: Final = 0.25
"""How long until a store that is not complete is looked at again."""
_FIRST_BACKOFF_SECONDS: Final = 0.05
_LONGEST_BACKOFF_SECONDS: Final = 0.5

_log: Final = logging.getLogger(__name__)


class _Gap(Exception):
    """Changes were missed, or one was not understood."""


class Changes:
    """`run` follows; `on_key` and `on_organization` hear what has changed, by digest and by name."""

    def __init__(
        self,
        redis: Redis,
        freshness: Freshness,
        revocations: Revocations,
        *,
        on_key: Callable[[bytes], None],
        on_organization: Callable[[str], None],
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        """`redis` has a connection to spare for this alone."""
        self._redis = redis
        self._freshness = freshness
        self._revocations = revocations
        self._on_key = on_key
        self._on_organization = on_organization
        self._clock = clock
        self._generation: bytes | None = None  # None: not following
        self._sequence = 0
        self._last = ""  # the id of the last entry
        self._trouble = ""  # why changes are not heard
        self.heard = Event()
        """Set once changes are heard for the first time."""
        self._up = metrics.gauge("tallygate_directory_up", "Whether published changes are being heard: 1 or 0.")
        self._at = metrics.gauge("tallygate_directory_sequence", "The number of the last published change heard.")
        self._lag = metrics.gauge(
            "tallygate_directory_lag_seconds", "How long after its publication the last change was acted on."
        )
        self._resyncs = metrics.counter(
            "tallygate_directory_resyncs_total",
            "Times that everything known of callers was in doubt, the start included.",
        )
        self._unreadable = metrics.counter(
            "tallygate_directory_unreadable_total", "Records and changes in the store that are not understood."
        )

    async def run(self) -> None:
        """For as long as the process lives."""
        backoff = _FIRST_BACKOFF_SECONDS
        while True:
            try:
                await (self._start() if self._generation is None else self._follow())
            except StoreUnavailable as error:
                self._deaf(str(error))
                await sleep(backoff * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret
                backoff = min(backoff * 2, _LONGEST_BACKOFF_SECONDS)
            except _Gap as error:
                _log.warning("callers are looked up anew: %s", error)
                self._generation = None
            except ValueError as error:
                self._unreadable.inc()
                self._generation = None
                self._deaf(f"the state in the store is not understood: {error}")
                await sleep(_INCOMPLETE_SECONDS)
            else:
                backoff = _FIRST_BACKOFF_SECONDS

    async def _start(self) -> None:
        """From the present on. Raises StoreUnavailable."""
        asked_at = self._clock.monotonic()
        found = await self._redis.run(START, [REVOKED, STATE, CHANGES])
        if found is None:
            self._deaf("the store is not complete; the control plane writes it anew")
            await sleep(_INCOMPLETE_SECONDS)
            return
        self._generation, sequence, last, revoked = found
        self._sequence, self._last = int(sequence or 0), last.decode()
        pairs = zip(revoked[::2], revoked[1::2], strict=True)
        self._revocations.replace({name.decode(): int(end) for name, end in pairs if name != COUNT})
        self._resyncs.inc()
        self._freshness.begin_era(asked_at)
        self._hearing()

    async def _follow(self) -> None:
        """One turn. Raises StoreUnavailable and _Gap."""
        asked_at = self._clock.monotonic()
        block = TURN_SECONDS if self._freshness.live else 0.0  # after an outage, know at once
        state, entries = await self._redis.read_after(
            *(CHANGES, self._last, (STATE, ("generation", "complete", "sequence"))),
            count=AT_ONCE,
            block_seconds=block,
        )
        generation, complete, sequence = state
        if generation != self._generation:
            raise _Gap("all of them were written anew" if generation is not None else "the store is empty")
        if complete != b"1" or sequence is None:
            self._deaf("all callers are being written anew")
            await sleep(_INCOMPLETE_SECONDS)
            return
        for entry in entries:
            self._hear(entry)
        if self._sequence < int(sequence) and len(entries) < AT_ONCE:
            raise _Gap(f"changes {self._sequence + 1} to {int(sequence)} are gone")
        if self._sequence > int(sequence) and not entries:
            raise _Gap(f"the store went back from change {self._sequence} to {int(sequence)}")
        if self._revocations.has_room_again:
            raise _Gap("not all revocations are held, and there is room again")
        self._freshness.confirm(asked_at if entries else asked_at + block)  # it has waited for so long, and none came
        self._hearing()

    def _hear(self, entry: Entry) -> None:
        """Acts on a change. Raises _Gap."""
        try:
            change = decode_change(entry.payload)
            digests = [bytes.fromhex(each) for each in change.ids] if change.kind == "key" else []
        except (msgspec.DecodeError, ValueError) as error:
            self._unreadable.inc()
            raise _Gap(f"a change is not understood: {error}") from error
        if change.v > VERSION:
            self._unreadable.inc()
            raise _Gap(f"a change of version {change.v}, newer than this program")
        if change.kind == "all" or change.sequence != self._sequence + 1:
            raise _Gap(f"change {change.sequence} ({change.kind}) came after change {self._sequence}")
        self._act(change, digests)
        self._sequence, self._last = change.sequence, entry.identifier
        millis = int(entry.identifier.partition("-")[0])
        self._lag.set(max(0.0, self._clock.nanos() / 1e9 - millis / 1e3))

    def _act(self, change: Change, digests: list[bytes]) -> None:
        match change.kind:
            case "key":
                for digest in digests:
                    self._on_key(digest)
            case "organization":
                for name in change.ids:
                    self._on_organization(name)
            case "revocation":
                self._revocations.add(dict(zip(change.ids, change.expires_at, strict=True)))

    def _hearing(self) -> None:
        if self._trouble:
            _log.info("changes of callers are heard again")
        self._trouble = ""
        self._up.set(1.0)
        self._at.set(self._sequence)
        self.heard.set()

    def _deaf(self, trouble: str) -> None:
        """Changes are not heard for now; what is known is served meanwhile."""
        self._freshness.live = False
        self._up.set(0.0)
        if not self._trouble:
            _log.warning("changes of callers are not heard: %s", trouble)
        self._trouble = trouble
