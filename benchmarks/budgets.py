"""Budgets: the figures that must hold, read from budgets.toml and compared with what was measured."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

BUDGETS: Final = Path(__file__).with_name("budgets.toml")


def broken(section: str, measured: Mapping[str, float], text: str | None = None) -> list[str]:
    """A line for every budget of a section that does not hold. Raises KeyError for one that was not measured."""
    budgets = tomllib.loads(BUDGETS.read_text() if text is None else text)[section]
    floors = [(name, limit, measured[name] >= limit) for name, limit in budgets.get("at_least", {}).items()]
    ceilings = [(name, limit, measured[name] <= limit) for name, limit in budgets.get("at_most", {}).items()]
    return [
        f"{name} is {measured[name]:g}, the budget is {word} {limit:g}"
        for word, found in (("at least", floors), ("at most", ceilings))
        for name, limit, holds in found
        if not holds
    ]


def verdict(section: str, measured: Mapping[str, float]) -> int:
    """Print what does not hold, or that all does. Returns the exit status."""
    lines = broken(section, measured)
    for line in lines:
        print(f"BUDGET BROKEN: {line}")
    if not lines:
        print(f"all budgets of [{section}] hold")
    return 1 if lines else 0
