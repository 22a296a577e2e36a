"""What the tests of billing share: a real PostgreSQL, an intake on it, and events made to order."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.billing.database import WORKER, Database
from gateway.billing.intake import Intake
from gateway.clock import Clock
from gateway.metrics import Metrics
from tests.fixtures.postgres import database_url, empty_database, postgres_server

__all__ = ["database_url", "empty_database", "postgres_server"]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(None)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A migrated database, empty, as the worker sees it."""
    async with Database(database_url, WORKER, connections=4) as database:
        yield database


@pytest.fixture
def intake(database: Database, metrics: Metrics) -> Intake:
    return Intake(database, metrics, Clock(), retention=400 * 86400.0)
