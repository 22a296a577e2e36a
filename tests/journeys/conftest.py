from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fixtures.postgres import database_url, postgres_server
from tests.fixtures.valkey import ValkeyServer, valkey, valkey_process
from tests.journeys.node import Node
from tests.journeys.upstream import Upstream

__all__ = ["database_url", "postgres_server", "valkey", "valkey_process"]


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    await upstream.start()
    yield upstream
    await upstream.stop()


@pytest.fixture
async def node(tmp_path: Path, valkey: ValkeyServer, database_url: str, upstream: Upstream) -> AsyncIterator[Node]:
    """A node that is not started yet."""
    node = Node(tmp_path, valkey.url, database_url, upstream.port)
    yield node
    await node.close()
