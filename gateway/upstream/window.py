"""Window: how often things happened lately, in memory that does not grow with how often they did."""

from __future__ import annotations

from collections import deque
from typing import Final

BUCKETS: Final = 10


class Window:
    """Counts of the last `seconds`, and of up to a tenth of that before: what is older leaves a bucket at a time.

    `totals` only grow. At the beginning of each bucket a mark is made of them, and what they have grown by since the
    `oldest` mark is what the window holds. So to count costs one addition, as long as the bucket lasts:

        if now >= window.ends_at:
            window.turn(now)
        window.totals[FAILED] += 1
    """

    __slots__ = ("_bucket", "_marks", "_width", "ends_at", "oldest", "seconds", "totals")

    def __init__(self, seconds: float, kinds: int) -> None:
        self.seconds = seconds
        self._width = seconds / BUCKETS
        self._bucket = 0
        self._marks: deque[tuple[float, ...]] = deque(maxlen=BUCKETS + 1)
        self.ends_at = 0.0
        self.totals: list[float] = [0] * kinds
        self.clear()

    def turn(self, now: float) -> None:
        """Begin the bucket that `now` lies in; `now` never goes back."""
        bucket = int(now // self._width)
        self._mark(min(bucket - self._bucket, BUCKETS + 1))
        self._bucket = bucket
        self.ends_at = (bucket + 1) * self._width

    def clear(self) -> None:
        """Forget everything."""
        self._mark(BUCKETS + 1)

    def held(self, kind: int, now: float) -> float:
        """How often this happened, or how much there was of it, within the window."""
        if now >= self.ends_at:
            self.turn(now)
        return self.totals[kind] - self.oldest[kind]

    def _mark(self, buckets: int) -> None:
        self._marks.extend([tuple(self.totals)] * buckets)
        self.oldest = self._marks[0]
