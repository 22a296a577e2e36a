"""Rendezvous hashing: which of several names a key belongs to, so that a change moves as few keys as can be.

Every name draws a number for every key, and the key belongs to the lowest one (Thaler and Ravishankar, "A Name-Based
Mapping Scheme for Rendezvous", 1996). The draw is exponential and divided by the name's weight, so that shares are in
proportion to the weights whatever these are (Schindler and Schomaker, "Weighted Distributed Hash Tables", 2005). When a
name leaves, only its keys move; when one comes or its weight is raised, keys move only to it: no scheme moves fewer.

`choose` draws for the key itself. A `Table` has drawn for BUCKETS of keys beforehand, so that a key's owner is found in
one step however many names there are; GitHub's load balancer fills its forwarding table like this ("GLB: GitHub's open
source load balancer", 2018). A ring (Karger et al., 1997) needs a search, and thousands of points for shares as even;
Maglev's table (Eisenbud et al., 2016) is filled faster but moves some keys that need not move.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b, shake_128
from math import inf, log
from struct import unpack
from typing import Final

BUCKETS: Final = 4096
"""With 5 equal names each share is within 3 % of a fifth (one standard deviation); each name takes 32 KiB."""

# Of a number n of 64 even bits, -ln((n + 1) / 2^64) is a draw from the exponential distribution.
_LARGEST: Final = 64 * log(2)


def choose(key: bytes, weights: Mapping[str, float]) -> str:
    """The name that this key belongs to, of names with positive weights; there is at least one."""
    return min(weights, key=lambda name: (_LARGEST - log(_number(key, _seed(name)) + 1)) / weights[name])


def bucket_of(key: bytes) -> int:
    """The bucket that a key falls into."""
    return _number(key) % BUCKETS


class Table:
    """Who owns each bucket: `owners`, by name. A change of one name takes about a millisecond, of however many."""

    def __init__(self) -> None:
        self.owners = [""] * BUCKETS
        self._lowest = [inf] * BUCKETS
        self._weights: dict[str, float] = {}
        self._draws: dict[str, array[float]] = {}

    def assign(self, weights: Mapping[str, float]) -> None:
        """These names share the buckets from now on. Weights are positive; without names nobody owns anything."""
        stay = {name: weight for name, weight in self._weights.items() if weights.get(name) == weight}
        self._draws = {name: self._draws[name] if name in stay else _draws(name) for name in weights}
        freed = [bucket for bucket, owner in enumerate(self.owners) if owner not in stay]
        for bucket in freed:
            self.owners[bucket], self._lowest[bucket] = "", inf
        for name, weight in weights.items():
            self._enter(name, weight, freed if name in stay else range(BUCKETS))
        self._weights = dict(weights)

    def _enter(self, name: str, weight: float, buckets: Iterable[int]) -> None:
        owners, lowest, draws = self.owners, self._lowest, self._draws[name]
        for bucket in buckets:
            draw = draws[bucket] / weight
            if draw < lowest[bucket]:
                owners[bucket], lowest[bucket] = name, draw


def _number(key: bytes, seed: bytes = b"") -> int:
    return int.from_bytes(blake2b(key, digest_size=8, key=seed).digest(), "little")


@lru_cache(maxsize=1024)
def _seed(name: str) -> bytes:
    return blake2b(name.encode(), digest_size=16).digest()


def _draws(name: str) -> array[float]:
    numbers = unpack(f"<{BUCKETS}Q", shake_128(name.encode()).digest(8 * BUCKETS))
    return array("d", [_LARGEST - log(number + 1) for number in numbers])
