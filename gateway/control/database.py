"""Database: PostgreSQL as the control plane sees it: the roles that it acts as, and a transaction for one tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from typing import Final

from gateway.control.collection import statements
from gateway.postgres import Connection, Database, parse_queries

CONTROL: Final = "tallygate_control"
"""Acts for one organization at a time; row level security hides every other one's rows from it."""
PUBLISHER: Final = "tallygate_publisher"
"""Reads everything, and changes nothing but the outbox, its own place, and what has grown old."""

EVERYBODY: Final = "*"
"""The tenant of a transaction that acts for all organizations."""

QUERIES: Final = parse_queries(resources.files(__package__).joinpath("queries.sql").read_text("utf-8")) | statements()


@asynccontextmanager
async def acting_for(
    database: Database, tenant: str, *, actor: str = "", request: str = ""
) -> AsyncIterator[Connection]:
    """A transaction that can reach what belongs to `tenant` (an organization, or `EVERYBODY`) and nothing else.

    `actor` and the id of the `request` are what the audit log says of its changes.
    """
    async with database.transaction() as connection:
        await connection.run("act_for", tenant, actor, request)
        yield connection
