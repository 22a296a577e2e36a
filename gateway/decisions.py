"""Decisions: who was refused what, for the audit log; and who was let in, where a route wants that told.

The access log has every decision in a line. Here equal ones are counted, in memory of bounded size, and the counts are
handed over each second to a stream in Redis, where the control plane takes them up (`gateway/control/decisions.py`).
Requests wait for none of it. While the stream is full or the store away, counting goes on: what is lost meanwhile is
when each happened, and beyond the bounds what exactly it was, but not how often.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Annotated, Final, TypeAlias

import msgspec

from gateway.background import Background
from gateway.clock import Clock
from gateway.exchange import Exchange
from gateway.metrics import Metrics
from gateway.permissions import Decision
from gateway.stores.redis import Redis
from gateway.stores.store import StoreUnavailable

STREAM: Final = "tallygate:decisions"
MOST_FRAMES: Final = 250
"""Frames in the stream; while nobody takes them, edge processes keep what they have counted."""
MOST_KINDS: Final = 500
"""Kinds of decisions that a process tells apart between two frames."""
MOST_OF_ONE: Final = 50
"""The same of one organization, so that none takes the room of the others."""
OTHERS: Final = "others"
"""What was wanted, where decisions are counted together because there was no room."""
HAND_OVER_SECONDS: Final = 1.0
_DEADLINE: Final = 1.0
_LONGEST: Final = 200

APPEND: Final = """
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('XADD', KEYS[1], '*', 'f', ARGV[2])
return 1
"""
"""Script: appends a frame, unless the stream is full. Key: `STREAM`; arguments: `MOST_FRAMES`, the frame."""

Times: TypeAlias = Annotated[int, msgspec.Meta(gt=0, lt=2**48)]
_Kind: TypeAlias = tuple[str, str, str, str, bool, str]

_log: Final = logging.getLogger(__name__)


class Entry(msgspec.Struct, frozen=True):
    """How often a decision was made. Without an organization it is of several."""

    organization: str
    consumer: str
    route: str
    wanted: str
    allowed: bool
    because: str
    times: Times


class Frame(msgspec.Struct, frozen=True):
    """What a process decided between two moments (microseconds since the epoch). `number` grows with each frame of a
    `sender`, and is the same where a frame is sent again because nobody knows whether it arrived.
    """

    sender: str
    number: int
    since: int
    until: int
    entries: list[Entry]


encode: Final = msgspec.json.Encoder().encode
decode: Final = msgspec.json.Decoder(Frame).decode


class Decisions:
    """Counts and hands over; without a store, where there is no control plane, it does neither."""

    def __init__(self, redis: Redis | None, clock: Clock, metrics: Metrics) -> None:
        self._redis = redis
        self._clock = clock
        self._background = Background()
        self._sender = clock.uuid7().hex()
        self._number = 0
        self._since = clock.micros()
        self._times: dict[_Kind, int] = {}
        self._kinds: dict[str, int] = {}  # of each organization
        self._frame: Frame | None = None  # on its way
        self._late = False
        self._together = metrics.counter(
            "tallygate_decisions_together_total",
            "Decisions that the audit log only counts together with others, as there were too many kinds.",
        )
        self._failed = metrics.counter(
            "tallygate_decisions_late_total", "Times that counted decisions could not be handed over yet."
        )
        self._lost = metrics.counter(
            "tallygate_decisions_lost_total", "Decisions that a process could not hand over before it ended."
        )

    def note(self, exchange: Exchange, decision: Decision) -> None:
        """Counts a decision about an exchange whose consumer is known."""
        if self._redis is None:
            return
        who = exchange.consumer
        kind = (who.organization, who.name, exchange.route, decision.wanted, decision.allowed, decision.because)
        times = self._times.get(kind)
        if times is None:
            kind = self._placed(kind)
            times = self._times.get(kind, 0)
        self._times[kind] = times + 1

    def start(self) -> None:
        """Hands over every second from now on."""
        if self._redis is not None:
            self._background.every(HAND_OVER_SECONDS, self._hand_over, "decisions")

    async def stop(self) -> None:
        """Hands over what is left, if that takes no longer than usual; what it cannot is counted."""
        await self._background.stop()
        await self._hand_over()
        if not self._late:
            await self._hand_over()  # what came since the one that was on its way
        left = sum(self._times.values()) + sum(entry.times for entry in (self._frame.entries if self._frame else ()))
        if left:
            self._lost.inc(left)
            _log.warning("%d decisions are missing from the audit log; the access log has each of them", left)

    def _placed(self, kind: _Kind) -> _Kind:
        """The kind that a new one is counted as: itself, as long as there is room."""
        organization, allowed = kind[0], kind[4]
        of_one = self._kinds.get(organization, 0)
        if of_one < MOST_OF_ONE and len(self._times) < MOST_KINDS:
            self._kinds[organization] = of_one + 1
            return kind
        self._together.inc()
        return organization if organization in self._kinds else "", "", "", OTHERS, allowed, ""

    async def _hand_over(self) -> None:
        if self._redis is None:
            return
        if self._frame is None:
            self._frame = self._next()
        if self._frame is None:
            return
        try:
            said = encode(self._frame)
            taken = await self._redis.run(APPEND, [STREAM], [MOST_FRAMES, said], deadline=_DEADLINE)
            trouble = "" if taken else "nobody takes them up (does a control plane run?)"
        except StoreUnavailable as error:
            trouble = str(error)
        if trouble:
            self._failed.inc()
            if not self._late:
                _log.warning("decisions for the audit log wait: %s", trouble)
        else:
            self._frame = None
        self._late = bool(trouble)

    def _next(self) -> Frame | None:
        since, self._since = self._since, self._clock.micros()
        if not self._times:
            return None
        self._number += 1
        frame = Frame(self._sender, self._number, since, self._since, list(_entries(self._times)))
        self._times, self._kinds = {}, {}
        return frame


def _entries(times: dict[_Kind, int]) -> Iterator[Entry]:
    for (organization, consumer, route, wanted, allowed, because), count in times.items():
        yield Entry(organization, consumer, _plain(route), _plain(wanted), allowed, _plain(because), count)


def _plain(text: str) -> str:
    """What any database takes: a policy service may say whatever it likes."""
    text = text[:_LONGEST]
    return text if text.isprintable() else "".join(each if each.isprintable() else "?" for each in text)
