"""The audit log: every change is in it, with who made it and what was there before and after."""

from __future__ import annotations

from tests.fixtures.control import Client, tenant
from tests.fixtures.postgres import fetch

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
