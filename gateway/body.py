"""Body: the payload of a message as it arrives, a bounded buffer between a connection and one reader.

The connection feeds it, the reader takes from it. When more than `HIGH_WATER` bytes wait to be read, the connection is
asked to stop reading its socket; so a slow reader slows the sender and memory stays flat.
"""

from __future__ import annotations

import sys
from asyncio import Future, get_running_loop
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

HIGH_WATER: Final = 256 * 1024


class Source(Protocol):
    """What feeds a body: a connection that can be told to begin, to pause, to go on, or that nobody reads any more."""

    def invite_body(self) -> None: ...

    def pause_body(self) -> None: ...

    def resume_body(self) -> None: ...

    def abandon_body(self) -> None: ...


class BodyTooLarge(Exception):
    """More bytes arrived than the reader was willing to hold."""


class BodyUnwanted(Exception):
    """The request was answered before all of its body was here; whoever sends it on must stop."""


class ClientGone(Exception):
    """The client closed its connection before its request was complete."""


class Body:
    """An incoming payload. `received` counts its bytes so far; `trailers` are there once it is complete.

    `length` is the declared size in bytes, or None where only the end of the body tells; `limit` is how many bytes
    may arrive in all before the body fails with BodyTooLarge. `error` is what it failed with: such a body never becomes
    complete, and what still arrives of it is counted and dropped. A `listener` is called whenever `take` has something
    to say that it had not before; without one, a reader waits for `next`.
    """

    __slots__ = (
        "_after",
        "_chunks",
        "_paused",
        "_size",
        "_source",
        "_taken",
        "_waiter",
        "_whole",
        "complete",
        "error",
        "length",
        "limit",
        "listener",
        "received",
        "trailers",
    )

    def __init__(self, source: Source | None = None, length: int | None = None) -> None:
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._source = source
        self._waiter: Future[None] | None = None
        self._paused = False
        self._taken = False
        self._whole: bytes | None = None
        self._after: list[Callable[[], None]] | None = None
        self.listener: Callable[[], None] | None = None
        self.complete = False
        self.error: Exception | None = None
        self.length = length
        self.limit = sys.maxsize
        self.received = 0
        self.trailers: list[tuple[str, str]] = []

    # The connection's side

    def feed(self, data: bytes, last: bool = False) -> None:
        """Some bytes arrived; `last` says that they are the end."""
        size = len(data)
        self.received += size
        if self.error is not None:
            return
        if self.received > self.limit:
            self.refuse()
            return
        self._chunks.append(data)
        self._size += size
        if self._size > HIGH_WATER and not self._paused and self._source is not None:
            self._paused = True
            self._source.pause_body()
        if last:
            self.finish()
        else:
            self._wake()

    def refuse(self) -> None:
        """It is larger than its `limit`: fail with BodyTooLarge and take no more, even if all of it is here."""
        self.complete = False
        self.fail(BodyTooLarge())
        self.close()

    def finish(self) -> None:
        """The end arrived, whole; of a body that failed before, it is no end."""
        if self.error is not None:
            return
        self.complete = True
        source, self._source = self._source, None  # it may serve another message from now on
        if self._paused:
            self._paused = False
            if source is not None:
                source.resume_body()
        self._wake()
        self._tell()

    def fail(self, error: Exception) -> None:
        """There will be no end: the reader gets `error` after what arrived before it."""
        if not self.complete and self.error is None:
            self.error = error
            self._wake()
            self._tell()

    # The reader's side

    def take(self) -> tuple[bytes, bool] | None:
        """All bytes that wait and whether they are the last, or None if there is nothing to say yet.

        Raises what the connection failed with, once everything before it has been taken.
        """
        chunks = self._chunks
        if chunks:
            self._taken = True
            data = chunks.popleft() if len(chunks) == 1 else b"".join(chunks)
            chunks.clear()
            self._size = 0
            if self._paused:
                self._paused = False
                if self._source is not None:
                    self._source.resume_body()
            return data, self.complete
        if self.complete:
            return b"", True
        if self.error is not None:
            raise self.error
        return None

    async def next(self) -> tuple[bytes, bool]:
        """Wait for `take` to have something. Only one reader may wait at a time."""
        while (piece := self.take()) is None:
            self._waiter = get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return piece

    async def read(self, limit: int) -> bytes:
        """The whole body, at most `limit` bytes, which can still be sent on afterwards.

        Raises BodyTooLarge as soon as there are more; nothing of the body can be sent on then.
        """
        if self._whole is not None:
            return self._whole
        if self._source is not None:
            self._source.invite_body()
        pieces: list[bytes] = []
        size = 0
        last = False
        while not last:
            data, last = await self.next()
            size += len(data)
            if size > limit:
                self.refuse()
                raise BodyTooLarge
            pieces.append(data)
        self._whole = b"".join(pieces)
        self.rewind()
        return self._whole

    def close(self) -> None:
        """Nobody will read the rest. Closing a complete or closed body does nothing."""
        source, self._source = self._source, None
        self._chunks.clear()
        self._size = 0
        if source is not None and not self.complete:
            source.abandon_body()

    @property
    def rewindable(self) -> bool:
        """Whether `rewind` would succeed."""
        return self._whole is not None or not self._taken

    def rewind(self) -> bool:
        """Begin again from the first byte, for another attempt; False if bytes were taken that nobody kept."""
        if self._whole is not None:
            self._chunks.clear()
            self._chunks.append(self._whole)
            return True
        return not self._taken

    def when_over(self, call: Callable[[], None]) -> None:
        """Call this too, once, when all of it has arrived or there will be no more."""
        self._after = [*(self._after or ()), call]
        if self.complete or self.error is not None:
            self._tell()

    def _tell(self) -> None:
        after, self._after = self._after, None
        for call in after or ():
            call()

    def _wake(self) -> None:
        if self.listener is not None:
            self.listener()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _empty() -> Body:
    body = Body(length=0)
    body.complete = True
    return body


NO_BODY: Final = _empty()
"""The body of every message that has none."""
