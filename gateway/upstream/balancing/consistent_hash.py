"""Consistent hash: requests with the same key go to the same target, until that has too much to do.

Keys are mapped to targets by a table that rendezvous hashing filled (`rendezvous.py`). A target that has its bound is
passed over for the owner of the next bucket that has room, as in Mirrokni, Thorup and Zadimoghaddam, "Consistent
Hashing with Bounded Loads" (2018): with a bound of 125 % no target is given more than 1.25 times its share of what is
in flight, rounded up, while most keys stay where they are. Each process bounds what it sends itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from math import ceil
from random import Random
from typing import Literal

from pydantic import Field

from gateway.exchange import Request
from gateway.options import Options, Rate
from gateway.upstream.balancing.balancer import Balancer, unless_avoided
from gateway.upstream.rendezvous import BUCKETS, Table, bucket_of
from gateway.upstream.request_key import KeyReader, RequestKeyOptions
from gateway.upstream.target import Target

_BOUND: Rate = Field(default=1.25, gt=1)


class IpHashOptions(Options):
    """`ip_hash`: a client's address, or its IPv6 network, always goes to the same target."""

    name: Literal["ip_hash"]
    """How a target is picked."""
    bound: Rate = _BOUND
    """The most a target has in flight, as a part of its fair share; beyond it others help out."""


class ConsistentHashOptions(RequestKeyOptions):
    """`consistent_hash`: requests with the same key go to the same target; those without one go anywhere."""

    name: Literal["consistent_hash"]
    """How a target is picked."""
    bound: Rate = _BOUND
    """The most a target has in flight, as a part of its fair share; beyond it others help out."""


class ConsistentHash(Balancer):
    """The owner of the key's bucket, or the next owner that has room. A request without a key gets a random bucket."""

    wants_feedback = True

    def __init__(self, read_key: KeyReader, bound: float, rng: Random) -> None:
        super().__init__()
        self._read_key = read_key
        self._bound = bound
        self._rng = rng
        self._table = Table()
        self._owners = self._table.owners
        self._by_name: dict[str, Target] = {}
        self._weight = 0

    def use(self, targets: Iterable[Target], now: float) -> None:
        super().use(targets, now)
        self._by_name = {target.name: target for target in self.targets}
        self._table.assign({target.name: target.weight for target in self.targets})
        self._weight = sum(target.weight for target in self.targets)

    def pick(self, request: Request, now: float, avoid: Collection[Target] = ()) -> Target | None:
        if not self._by_name:
            return None
        key = self._read_key(request)
        bucket = self._rng.randrange(BUCKETS) if key is None else bucket_of(key)
        owner = self._by_name[self._owners[bucket]]
        if not owner.state.in_flight and not avoid:
            return owner  # one is always within the bound
        return self._next_with_room(bucket, avoid)

    def _next_with_room(self, bucket: int, avoid: Collection[Target]) -> Target:
        going = 1 + sum(target.state.in_flight for target in self.targets)
        share = self._bound * going / self._weight
        left = set(unless_avoided(self.targets, avoid))
        nearest: Target | None = None
        for place in range(bucket, bucket + BUCKETS):
            target = self._by_name[self._owners[place % BUCKETS]]
            if target in left:
                if target.state.in_flight < ceil(share * target.weight):
                    return target
                nearest = nearest or target
                left.discard(target)
                if not left:
                    break
        # Whoever has room was tried already; or those that were not are too light for a bucket.
        return nearest or next(target for target in self.targets if target in left)
