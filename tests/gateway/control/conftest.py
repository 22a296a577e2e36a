"""What the tests of the control plane share: a migrated PostgreSQL and the API on it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.stores.redis import Redis
from tests.fixtures.control import Client, serving
from tests.fixtures.postgres import database_url, empty_database, postgres_server
from tests.fixtures.published import Edge
from tests.fixtures.valkey import redis, valkey, valkey_process

__all__ = ["database_url", "empty_database", "postgres_server", "redis", "valkey", "valkey_process"]


@pytest.fixture
async def client(database_url: str) -> AsyncIterator[Client]:
    async with serving(database_url) as client:
        yield client


@pytest.fixture
def edge(redis: Redis) -> Edge:
    return Edge(redis)


@pytest.fixture
async def acme(client: Client) -> Client:
    """An organization with a role."""
    await client.make("/v1/organizations", name="acme")
    await client.make("/v1/organizations/acme/roles", name="reader", permissions=["books:read"])
    return client
