"""Round robin: one target after the other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from itertools import cycle
from random import Random
from typing import Literal

from gateway.exchange import Request
from gateway.options import Options
from gateway.upstream.balancing.balancer import Balancer, unless_avoided
from gateway.upstream.target import Target


class RoundRobinOptions(Options):
    """`round_robin`: one target after the other; weights need another balancer, but 0 drains a target here too."""

    name: Literal["round_robin"] = "round_robin"
    """How a target is picked."""


class RoundRobin(Balancer):
    """Goes round, from a random place, so that processes do not begin with the same target."""

    def __init__(self, rng: Random) -> None:
        super().__init__()
        self._rng = rng
        self._turn: Callable[[], Target | None] = cycle([None]).__next__

    def inherit(self, previous: RoundRobin) -> None:
        super().inherit(previous)
        self._turn = previous._turn

    def use(self, targets: Iterable[Target], now: float) -> None:
        """When the list changes, it goes on with whoever would have been next, or came soonest after it."""
        before, due = self.targets, self._turn()
        super().use(targets, now)
        places = {target.name: place for place, target in enumerate(self.targets)}
        turn = before.index(due) if due is not None else 0
        coming = [places[target.name] for target in (*before[turn:], *before[:turn]) if target.name in places]
        first = coming[0] if coming else self._rng.randrange(len(self.targets) or 1)
        self._turn = cycle([*self.targets[first:], *self.targets[:first]] or [None]).__next__

    def pick(self, request: Request, now: float, avoid: Collection[Target] = ()) -> Target | None:
        if avoid:  # drawn, so that it takes nobody's turn: else, of two targets, all calls would meet the bad one first
            others = unless_avoided(self.targets, avoid)
            return self._rng.choice(others) if others else None
        return self._turn()
