"""Split: which of several upstreams takes a request, by weight; a canary, or two versions side by side.

With a sticky key, a caller stays where it is: its key and the weights alone decide, on every machine alike
(`rendezvous.py`), and raising a weight moves callers only to the upstream whose weight was raised. Without a key, each
request is an independent draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from random import Random

from pydantic import Field

from gateway.exchange import Request
from gateway.options import Options
from gateway.upstream.rendezvous import choose
from gateway.upstream.request_key import RequestKeyOptions


class SplitOptions(Options):
    """One of the upstreams that share a route's requests."""

    upstream: str
    """Name of the upstream."""
    weight: int = Field(ge=0, le=1_000_000)
    """Share of the requests, in proportion to the other weights; 0 for none."""


def check_split(arms: Sequence[SplitOptions]) -> None:
    """Raises ValueError for a split that sends nothing anywhere, or names an upstream twice."""
    names = [arm.upstream for arm in arms]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"upstream {min(twice)!r} is listed twice (add its weights up)")
    if not any(arm.weight for arm in arms):
        raise ValueError("nothing is sent anywhere (give one upstream a weight above 0)")


class Split:
    """A weighted choice between upstreams."""

    def __init__(self, arms: Sequence[SplitOptions], sticky: RequestKeyOptions | None, rng: Random) -> None:
        self._weights = {arm.upstream: float(arm.weight) for arm in arms if arm.weight}
        self._names = list(self._weights)
        self._bounds = list(accumulate(self._weights.values()))
        self._read_key = sticky.reader() if sticky is not None else None
        self._rng = rng

    def pick(self, request: Request) -> str:
        """The name of the upstream that takes this request."""
        key = self._read_key(request) if self._read_key is not None else None
        if key is not None:
            return choose(key, self._weights)
        return self._rng.choices(self._names, cum_weights=self._bounds)[0]
