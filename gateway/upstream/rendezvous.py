"""Rendezvous hashing: which of several names a key belongs to, so that a change moves as few keys as can be.

Every name draws a number for every key, and the key belongs to the lowest one (Thaler and Ravishankar, "A Name-Based
Mapping Scheme for Rendezvous", 1996). The draw is exponential and divided by the name's weight, so that shares are in
proportion to the weights whatever these are (Schindler and Schomaker, "Weighted Distributed Hash Tables", 2005). When a
name leaves, only its keys move; when one comes or its weight is raised, keys move only to it: no scheme moves fewer.

`choose` draws for the key itself. `owners` draws for BUCKETS of keys beforehand, so that a key's owner is found in one
step however many names there are; GitHub's load balancer fills its forwarding table like this ("GLB: GitHub's open
source load balancer", 2018). A ring (Karger et al., 1997) needs a search, and thousands of points for shares as even;
Maglev's table (Eisenbud et al., 2016) is filled faster but moves some keys that need not move.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b, shake_128
from math import log
from struct import unpack
from typing import Final

BUCKETS: Final = 4096
"""With 5 equal names each share is within 3 % of a fifth (one standard deviation); each name takes 128 KiB."""


def choose(key: bytes, weights: dict[str, float]) -> str:
    """The name that this key belongs to, of names with positive weights; there is at least one."""
    return min(weights, key=lambda name: _exponential(_number(key, _seed(name))) / weights[name])


def bucket_of(key: bytes) -> int:
    """The bucket that a key falls into."""
    return _number(key) % BUCKETS


def owners(names: Sequence[str], weights: Sequence[float]) -> list[int]:
    """For each bucket the place of the name that it belongs to. Weights are positive; there is at least one name."""
    drawn = [
        [draw / weight for draw in _draws(name)] if weight != 1 else _draws(name)
        for name, weight in zip(names, weights, strict=True)
    ]
    return [bucket.index(min(bucket)) for bucket in zip(*drawn, strict=True)]


def _number(key: bytes, seed: bytes = b"") -> int:
    return int.from_bytes(blake2b(key, digest_size=8, key=seed).digest(), "little")


@lru_cache(maxsize=1024)
def _seed(name: str) -> bytes:
    return blake2b(name.encode(), digest_size=16).digest()


@lru_cache(maxsize=256)
def _draws(name: str) -> list[float]:
    stream = shake_128(name.encode()).digest(8 * BUCKETS)
    return [_exponential(number) for number in unpack(f"<{BUCKETS}Q", stream)]


def _exponential(number: int) -> float:
    """64 even bits as a draw from the exponential distribution."""
    return -log((number + 1) / 2**64)
