"""Replay: a request's body that can be sent again, because what was sent of it is kept while it is small.

A body streams through; most are never needed twice, and one too large to keep is not worth the memory. So each upstream
says how large a body it keeps, and all bodies of a process share one bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.body import Body
from gateway.exchange import Response

if TYPE_CHECKING:
    from gateway.metrics import Metrics

MOST_KEPT: Final = 64 * 2**20
"""Bytes of bodies that one process keeps at most."""


class ReplayMemory:
    """What one process may keep of bodies, in bytes. A body that finds no room can be sent only once."""

    __slots__ = ("_gauge", "_limit", "_refused", "kept")

    def __init__(self, metrics: Metrics, limit: int = MOST_KEPT) -> None:
        self._limit = limit
        self.kept = 0
        self._gauge = metrics.gauge("tallygate_replay_bytes", "Bytes of request bodies kept to be sent again.")
        self._refused = metrics.counter(
            "tallygate_replay_refusals_total", "Request bodies that could not be kept because too many others were."
        )

    def take(self, size: int) -> bool:
        """Keep so many bytes more, if there is room."""
        if self.kept + size > self._limit:
            self._refused.inc()
            return False
        self.kept += size
        self._gauge.set(self.kept)
        return True

    def give_back(self, size: int) -> None:
        """Keep so many bytes less."""
        self.kept -= size
        self._gauge.set(self.kept)


class ReplayableBody:
    """The reader's side of a `body`, which begins again after `rewind` if no more than `limit` bytes were taken of it.

    Like a Body it has one reader at a time. `release` must be called once nobody will rewind it any more: when a
    response is on its way to the client, or the call is over.
    """

    __slots__ = ("_body", "_ended", "_keeps", "_kept", "_limit", "_memory", "_place")

    def __init__(self, body: Body, limit: int, memory: ReplayMemory) -> None:
        self._body = body
        self._limit = limit
        self._memory = memory
        self._keeps = body.length is None or body.length <= limit
        self._kept = bytearray()  # and not the pieces: a body may come in many of a few bytes each
        self._place = 0  # of the first byte in it that is still to be read
        self._ended = False  # the last piece has been taken

    @property
    def length(self) -> int | None:
        """As a Body's."""
        return self._body.length

    @property
    def complete(self) -> bool:
        """As a Body's."""
        return self._body.complete

    @property
    def error(self) -> Exception | None:
        """As a Body's."""
        return self._body.error

    @property
    def trailers(self) -> list[tuple[str, str]]:
        """As a Body's."""
        return self._body.trailers

    @property
    def whole(self) -> bytes | None:
        """All of it, if it has arrived and was kept."""
        return bytes(self._kept) if self._keeps and self._ended else None

    def take(self) -> tuple[bytes, bool] | None:
        """As a Body's: first what was kept before `rewind`, then what has arrived since."""
        if self._place < len(self._kept):
            data = bytes(self._kept[self._place :])
            self._place = len(self._kept)
            return data, self._ended
        piece = self._body.take()
        if piece is not None:
            self._keep(*piece)
        return piece

    async def next(self) -> tuple[bytes, bool]:
        """As a Body's."""
        piece = self.take()
        if piece is None:
            piece = await self._body.next()
            self._keep(*piece)
        return piece

    def rewindable_after(self, result: Exception | Response) -> bool:
        """Whether it can begin again after an attempt that ended so. A target that answers before it has the whole body
        may still be taking the rest.
        """
        if self.error is not None or (isinstance(result, Response) and not self._ended):
            return False
        return self._keeps or self._body.rewindable

    def rewind(self) -> bool:
        """Begin again from the first byte, for another attempt; False if bytes were taken that nobody kept."""
        if self._keeps:
            self._place = 0
            return True
        return self._body.rewind()

    def release(self) -> None:
        """Nobody will rewind it any more. What is left to be read still can be. Idempotent."""
        if self._keeps:
            self._keeps = False
            self._memory.give_back(len(self._kept))
            del self._kept[: self._place]
            self._place = 0

    def _keep(self, data: bytes, last: bool) -> None:
        self._ended = last
        if not self._keeps:
            return
        if len(self._kept) + len(data) > self._limit or not self._memory.take(len(data)):
            self.release()
            return
        self._kept += data
        self._place += len(data)
