"""Database: PostgreSQL as billing sees it: the roles that it acts as, and its statements."""

from __future__ import annotations

from importlib import resources
from typing import Final

from gateway import postgres
from gateway.postgres import Connection, DatabaseUnavailable, Retry, Row, Taken, Unacceptable, Uuid, parse_queries

__all__ = ["Connection", "Database", "DatabaseUnavailable", "Retry", "Row", "Taken", "Unacceptable", "Uuid"]

WORKER: Final = "tallygate_worker"
READER: Final = "tallygate_reader"

QUERIES: Final = parse_queries(resources.files(__package__).joinpath("queries.sql").read_text("utf-8"))


class Database(postgres.Database):
    """Connections that act as one role and know the statements of billing."""

    def __init__(self, url: str, role: str, *, connections: int = 1, statement_timeout: float = 10.0) -> None:
        """`statement_timeout` in seconds."""
        super().__init__(url, role, QUERIES, connections=connections, statement_timeout=statement_timeout)
