"""The audit log: every change is in it, with who made it and what was there before and after."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from gateway.control import ageing
from gateway.control.database import CONTROL, PUBLISHER, QUERIES
from gateway.postgres import Database
from gateway.stores.redis import Redis
from tests.fixtures.control import Client, tenant
from tests.fixtures.postgres import fetch, run_sql
from tests.fixtures.published import Edge, is_record, publishing

HOME = "/v1/organizations/acme"


async def test_who_changed_what(client: Client) -> None:
    admin = await tenant(client, "acme")
    made = await admin.ask("POST", f"{HOME}/teams", {"name": "t"})
    await admin.change(f"{HOME}/teams/t", title="The team")
    await admin.ask("DELETE", f"{HOME}/teams/t", headers={"if-match": '"2"'})
    entries = (await admin.get(f"{HOME}/audit?limit=3")).document["items"]
    assert [(entry["actor"], entry["kind"], entry["name"], entry["action"]) for entry in entries] == [
        ("key acme/admin", "team", "t", action) for action in ("delete", "change", "create")
    ]
    removed, changed, created = entries
    assert created["before"] is None
    assert created["request"] == made.headers["x-request-id"]
    assert (changed["before"]["title"], changed["after"]["title"]) == ("", "The team")
    assert (removed["before"], removed["after"]) == (changed["after"], None)


async def test_what_was_refused_leaves_no_trace(client: Client) -> None:
    admin = await tenant(client, "acme", "control/roles:*", "control/audit:read")
    before = (await client.get("/v1/audit")).document
    assert (await admin.ask("POST", f"{HOME}/roles", {"name": "x", "permissions": ["*:*"]})).status == 403
    assert (await admin.ask("POST", f"{HOME}/roles", {"name": "admin", "permissions": []})).status == 409
    assert (await client.get("/v1/audit")).document == before


async def test_no_secret_is_in_it_nor_anywhere_else(client: Client, database_url: str) -> None:
    admin = await tenant(client, "acme")
    told = await admin.ask("POST", f"{HOME}/keys", {}, {"idempotency-key": "once"})
    secrets = (str(admin.token), told.document["secret"])
    assert (await client.get("/v1/audit")).document["items"][0]["kind"] == "api_secret"
    for (table,) in await fetch(database_url, "select tablename from pg_tables where schemaname = 'public'"):
        rows = await fetch(database_url, f"select row_to_json(t)::text from {table} t")
        assert not [row for row in rows if any(secret in str(row) for secret in secrets)], table


async def test_pages_go_back_in_time(client: Client) -> None:
    await tenant(client, "acme")
    found: list[int] = []
    query = "?limit=2"
    while query:
        page = (await client.get(f"/v1/audit{query}")).document
        found += [entry["id"] for entry in page["items"]]
        query = f"?limit=2&after={page['next']}" if page["next"] else ""
    assert found == sorted(found, reverse=True)
    assert len(found) == 4


class TestRetention:
    """What is older than an operator wants to keep."""

    @pytest.fixture
    async def aged(self, client: Client, database_url: str) -> Client:
        """Ten entries of 100 days ago, and those of today."""
        await run_sql(
            database_url,
            "insert into audit_entry (at, actor, request, kind, name, action)"
            " select now() - interval '100 days', 'past', '', 'team', number::text, 'create'"
            " from generate_series(1, 10) as number",
        )
        await client.make("/v1/organizations", name="acme")
        return client

    async def actors(self, client: Client) -> list[str]:
        return [entry["actor"] for entry in (await client.get("/v1/audit")).document["items"]]

    async def test_it_is_kept_for_ever_unless_said(
        self, aged: Client, database_url: str, redis: Redis, edge: Edge
    ) -> None:
        async with publishing(database_url, redis):
            await edge.until(lambda: edge.organization("acme"), is_record)
            await asyncio.sleep(0.1)
        assert await self.actors(aged) == ["bootstrap"] + ["past"] * 10

    async def test_what_is_too_old_goes_a_batch_at_a_time_and_leaves_an_entry(
        self, aged: Client, database_url: str, redis: Redis, edge: Edge, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ageing, "_AT_ONCE", 6)
        monkeypatch.setattr(ageing, "_EVERY_SECONDS", 0.0)
        async with publishing(database_url, redis, audit_retention=90 * 86400.0):
            await edge.until(lambda: self.actors(aged), lambda found: "past" not in found)
            await asyncio.sleep(1.2)  # nothing goes twice
        items = (await aged.get("/v1/audit")).document["items"]
        assert [(item["actor"], item["kind"], item["action"]) for item in items] == [
            ("retention", "audit_entry", "delete"),
            ("retention", "audit_entry", "delete"),
            ("bootstrap", "organization", "create"),
        ]
        assert [item["before"]["entries"] for item in items[:2]] == [4, 6]

    async def test_the_rest_of_a_day_waits_for_its_end(self, aged: Client, database_url: str) -> None:
        """An entry of every day at most, not one of every minute."""
        async with Database(database_url, PUBLISHER, QUERIES) as database, database.transaction() as connection:
            begun = "select extract(epoch from now() - date_trunc('day', now() - interval '100 days', 'UTC'))::float8"
            seconds = await connection.raw.fetchval(begun)
            assert await connection.value("forget_audit", seconds - 1, 100) == 0
            assert await connection.value("forget_audit", seconds - 86401, 100) == 10

    @pytest.mark.parametrize(
        ("role", "statement", "error"),
        [
            (PUBLISHER, "select forget_audit('29 days', 100)", asyncpg.InvalidParameterValueError),
            (PUBLISHER, "select forget_audit('-1 days', 100)", asyncpg.InvalidParameterValueError),
            (PUBLISHER, "select forget_audit(null, 100)", asyncpg.InvalidParameterValueError),
            (CONTROL, "select forget_audit('90 days', 100)", asyncpg.InsufficientPrivilegeError),
            (PUBLISHER, "delete from audit_entry", asyncpg.InsufficientPrivilegeError),
            ("postgres", "delete from audit_entry", asyncpg.InsufficientPrivilegeError),
            ("postgres", "truncate audit_entry", asyncpg.InsufficientPrivilegeError),
        ],
    )
    async def test_nobody_else_takes_anything_away(
        self, aged: Client, database_url: str, role: str, statement: str, error: type[Exception]
    ) -> None:
        before = await self.actors(aged)
        async with Database(database_url, role, QUERIES) as database, database.session() as session:
            with pytest.raises(error):
                await session.raw.execute(statement)
        assert await self.actors(aged) == before

    async def test_not_even_the_owner_takes_away_what_is_young(self, aged: Client, database_url: str) -> None:
        async with Database(database_url, "tallygate_owner", QUERIES) as database, database.session() as session:
            await session.raw.execute("delete from audit_entry where actor <> 'past'")
            await session.raw.execute("update audit_entry set actor = ''")
        assert await self.actors(aged) == ["bootstrap"] + ["past"] * 10
