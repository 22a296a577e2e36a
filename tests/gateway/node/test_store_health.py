"""Store health: a store that hangs or is not there is down, and says why."""

from __future__ import annotations

import pytest

from gateway.clock import Clock
from gateway.metrics import Metrics
from gateway.node import store_health
from gateway.node.store_health import StoreHealth
from gateway.stores.redis import Redis
from tests.fixtures.postgres import PostgresServer, postgres_server, run_sql

__all__ = ["postgres_server"]


async def report(url: str) -> dict[str, object]:
    health = StoreHealth(Redis("redis://127.0.0.1:1/0"), url, 1, metrics=Metrics(None), clock=Clock())
    await health.look_at_postgres()
    return health.report()["postgres"]


async def test_a_server_that_answers_is_up(postgres_server: PostgresServer):
    assert await report(postgres_server.url()) == {"state": "up", "since_seconds": 0.0}


async def test_a_server_that_hangs_is_down(postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store_health, "_DEADLINE", 0.2)
    postgres_server.pause()
    try:
        said = await report(postgres_server.url())
    finally:
        postgres_server.resume()
    assert said == {"state": "down", "since_seconds": 0.0, "reason": "no answer within 0.2 s"}


async def test_a_server_that_is_not_there_is_down(postgres_server: PostgresServer):
    assert await report("postgresql://127.0.0.1:1/none") == {
        "state": "down",
        "since_seconds": 0.0,
        "reason": "Connection refused",
    }


async def test_the_question_leaves_no_trace_in_the_servers_log(postgres_server: PostgresServer):
    before = postgres_server.log()
    for _ in range(3):
        await report(postgres_server.url())
    await run_sql(postgres_server.url(), "do $$ begin raise log 'after the questions'; end $$")
    assert [line for line in postgres_server.log()[len(before) :].splitlines() if "LOG:" in line] == [
        line for line in postgres_server.log().splitlines() if "after the questions" in line and "LOG:" in line
    ]
