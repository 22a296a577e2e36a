"""Balancer: which target takes the next call."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.upstream.target import Target


class RoundRobin:
    """One target after the other."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = targets
        self._next = 0

    def pick(self) -> Target:
        """The target for the next attempt."""
        target = self._targets[self._next]
        self._next = (self._next + 1) % len(self._targets)
        return target

    def inherit(self, previous: RoundRobin) -> None:
        """Go on where another one stopped: with the first of its coming targets that is still there."""
        places = {target.url: place for place, target in enumerate(self._targets)}
        coming = (*previous._targets[previous._next :], *previous._targets[: previous._next])
        self._next = next((places[target.url] for target in coming if target.url in places), 0)
