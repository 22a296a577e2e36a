"""Weighted: in turn, each as often as its weight says, and as evenly spread as can be.

nginx's smooth weighted round robin (nginx commit 52327e0627f49dbda1e8db695e63a4b0af4448b1, 2012): at each pick every
target gains its weight, the one that has most is picked and pays the sum of all. Weights 5, 1, 1 give a a b a c a a,
not a a a a a b c.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal

from gateway.exchange import Request
from gateway.options import Options
from gateway.upstream.balancing.balancer import Balancer, unless_avoided
from gateway.upstream.target import Target


class WeightedOptions(Options):
    """`weighted`: in turn, each target as often as its weight says, evenly spread."""

    name: Literal["weighted"]
    """How a target is picked."""


class Weighted(Balancer):
    """Keeps what each target has gained in `TargetState.turn`, so a changed list goes on where the old one was."""

    def use(self, targets: Iterable[Target], now: float) -> None:
        super().use(targets, now)
        most = sum(target.weight for target in self.targets)
        for target in self.targets:  # what was gained under other weights must not keep a target away, or alone
            target.state.turn = max(-most, min(most, target.state.turn))

    def pick(self, request: Request, now: float, avoid: Collection[Target] = ()) -> Target | None:
        picked: Target | None = None
        most = total = 0
        for target in unless_avoided(self.targets, avoid) if avoid else self.targets:
            state, weight = target.state, target.weight
            state.turn += weight
            total += weight
            if picked is None or state.turn > most:
                picked, most = target, state.turn
        if picked is not None:
            picked.state.turn -= total
        return picked
