"""Tables: what commands print for people: lines with columns, and what stands in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def table_of(items: Sequence[dict[str, Any]], columns: Sequence[str]) -> list[str]:
    """The lines of a table; columns in which nothing stands are left out."""
    filled = [column for column in columns if any(item[column] not in (None, "", [], False) for item in items)]
    rows = [filled, *([shown(item[column]) for column in filled] for item in items)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(filled))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def shown(value: Any) -> str:
    """A member, for people."""
    match value:
        case None | "" | []:
            return ""
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(shown(each) for each in value)
        case dict():
            return " ".join(f"{name}={shown(each)}" for name, each in value.items() if each is not None)
    return str(value)
