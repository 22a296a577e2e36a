"""Report: what an organization has used, as a table, from the hourly roll-ups."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Literal, TypeAlias

from gateway.billing.database import READER, Database, Row
from gateway.config.configuration import GatewayConfig
from gateway.stores.address import postgres_url

By: TypeAlias = Literal["day", "route", "key"]
"""What a line of the table stands for. Days are UTC."""


async def usage(
    config: GatewayConfig, organization: str, by: By = "day", first: date | None = None, last: date | None = None
) -> list[str]:
    """The lines of the table, for the UTC days from `first` to `last`, both included.

    Raises DatabaseUnavailable, or StoreUnavailable if PostgreSQL has no address yet.
    """
    async with Database(postgres_url(config.stores), READER) as database, database.session() as session:
        rows = await session.rows("usage_of_organization", organization, by, first, last)
    return lines_of(rows, by) if rows else [f"no usage of {organization}"]


def lines_of(rows: Iterable[Row], by: str) -> list[str]:
    """A column for each meter, a line for each label, and the totals."""
    quantities: dict[str, dict[str, int]] = {}
    totals: dict[str, int] = {}
    for row in rows:
        quantity = int(row["quantity"])
        quantities.setdefault(row["label"], {})[row["meter"]] = quantity
        totals[row["meter"]] = totals.get(row["meter"], 0) + quantity
    meters = sorted(totals)
    table = [[by, *meters]]
    table += [[label, *(f"{of.get(meter, 0):,}" for meter in meters)] for label, of in quantities.items()]
    table.append(["total", *(f"{totals[meter]:,}" for meter in meters)])
    return aligned(table)


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, numbers to the right."""
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    return [
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in table
    ]
