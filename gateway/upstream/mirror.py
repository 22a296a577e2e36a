"""Mirror: which requests are sent a second time, to an upstream whose answers nobody waits for."""

from __future__ import annotations

from random import Random

from pydantic import Field

from gateway.options import Options, Rate


class MirrorOptions(Options):
    """Sends a share of the requests to another upstream too; its answers are thrown away."""

    upstream: str
    """Name of the upstream."""
    share: Rate = Field(default=1.0, ge=0, le=1)
    """How many of the requests are mirrored."""
    max_in_flight: int = Field(default=64, ge=1)
    """Mirrored requests of one process under way at once; while there are more, none is mirrored."""


class Mirror:
    """Draws for each request, and never lets a slow mirror hold more than its bound. `left_out` counts those."""

    def __init__(self, options: MirrorOptions, rng: Random) -> None:
        self.upstream = options.upstream
        self.in_flight = 0
        self.left_out = 0
        self._share = options.share
        self._most = options.max_in_flight
        self._random = rng.random

    def begin(self) -> bool:
        """Whether to mirror this request; if so, `end` must follow."""
        if self._random() >= self._share:
            return False
        if self.in_flight >= self._most:
            self.left_out += 1
            return False
        self.in_flight += 1
        return True

    def end(self) -> None:
        """A mirrored request is over, however it went."""
        self.in_flight -= 1
