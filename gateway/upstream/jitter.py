"""Jitter: what processes do at intervals they should not all do at once."""

from __future__ import annotations

from random import Random
from typing import Final

SHARE: Final = 0.1


def jittered(seconds: float, rng: Random) -> float:
    """About so many seconds: up to a tenth more or less."""
    return seconds * (1 + SHARE * (2 * rng.random() - 1))
