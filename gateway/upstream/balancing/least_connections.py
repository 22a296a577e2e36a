"""Least connections: the target that has least in flight for its weight."""

from __future__ import annotations

from collections.abc import Collection
from random import Random
from typing import Literal

from gateway.exchange import Request
from gateway.options import Options
from gateway.upstream.balancing.balancer import Balancer, unless_avoided
from gateway.upstream.target import Target


class LeastConnectionsOptions(Options):
    """`least_connections`: the target with the fewest of this process's requests in flight, for its weight."""

    name: Literal["least_connections"]
    """How a target is picked."""


class LeastConnections(Balancer):
    """Among equals at random, as likely as their weights say: in order, all processes would rush to the same one."""

    wants_feedback = True

    def __init__(self, rng: Random) -> None:
        super().__init__()
        self._random = rng.random

    def pick(self, request: Request, now: float, avoid: Collection[Target] = ()) -> Target | None:
        equals: list[Target] = []
        least = 0.0
        for target in unless_avoided(self.targets, avoid) if avoid else self.targets:
            load = target.state.in_flight / target.weight
            if not equals or load < least:
                equals, least = [target], load
            elif load == least:
                equals.append(target)
        return self._one_of(equals) if len(equals) > 1 else equals[0] if equals else None

    def _one_of(self, equals: list[Target]) -> Target:
        point = self._random() * sum([target.weight for target in equals])
        for target in equals:
            point -= target.weight
            if point < 0:
                break
        return target
