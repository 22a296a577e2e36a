"""JSON path: what stands somewhere inside a JSON document, by the names that lead there."""

from __future__ import annotations

from typing import Any, TypeAlias

Steps: TypeAlias = tuple[str, ...]
"""The members that lead to a value, one inside the other; digits are a place in a list, from 0."""


def value_at(document: Any, steps: Steps) -> Any:
    """What stands at the end of the path; None where it does not lead anywhere."""
    value = document
    for step in steps:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value
