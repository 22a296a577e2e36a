"""Tenants: nobody reaches another organization's rows, through any operation, nor in the database itself."""

from __future__ import annotations

import json
import re
from typing import Any

import asyncpg
import pytest

from gateway.control.database import CONTROL, PUBLISHER, QUERIES, acting_for
from gateway.control.operations import Operation, operations
from gateway.migration import schema_files
from gateway.postgres import Connection, Database
from tests.fixtures.control import Client, Told, tenant
from tests.fixtures.postgres import fetch

MARK = "very-own"
"""In everything that belongs to the victim; no answer to anybody else may say it."""

OF_AN_ORGANIZATION = (
    ("departments", {"name": MARK}),
    ("teams", {"name": MARK}),
    ("roles", {"name": MARK, "permissions": []}),
    ("users", {"name": MARK}),
    ("service-accounts", {"name": MARK}),
    ("memberships", {"name": MARK, "user": MARK, "roles": []}),
    ("subscriptions", {"name": MARK, "plan": MARK}),
    ("keys", {"name": MARK}),
)


@pytest.fixture
async def victim(client: Client, database_url: str) -> Client:
    """An organization with one of everything."""
    victim = await tenant(client, "victim", title=MARK)
    for collection, members in OF_AN_ORGANIZATION:
        await victim.make(f"/v1/organizations/victim/{collection}", **members)
    decision = {"organization": "victim", "consumer": MARK, "route": MARK, "wanted": MARK, "because": MARK}
    entries = json.dumps([decision | {"allowed": False, "times": 1}])
    await fetch(database_url, f"select take_decisions('edge', 1, now(), now(), '{entries}')")
    await client.make("/v1/revocations", name=MARK, kind="jti", token=MARK, expires_at="2030-01-01T00:00:00Z")
    return victim


@pytest.fixture
async def attacker(client: Client, victim: Client) -> Client:
    """May do everything, in another organization."""
    return await tenant(client, "attacker")


def body_for(operation: Operation) -> dict[str, Any] | None:
    """A body that would be taken from somebody who may."""
    if operation.body is None:
        return None
    if operation.method == "PATCH":
        return {"title": "taken over"} if "title" in operation.body.model_fields else {}
    samples: dict[str, Any] = {
        "name": "planted",
        "permissions": ["books:read"],
        "kind": "jti",
        "token": "planted",
        "expires_at": "2030-01-01T00:00:00Z",
        "user": MARK,
        "roles": [],
        "plan": "planted",
    }
    required = {name for name, field in operation.body.model_fields.items() if field.is_required()}
    return {name: samples[name] for name in required | ({"name"} & set(operation.body.model_fields))}


async def ask(who: Client, operation: Operation, organization: str) -> Told:
    path = operation.path.replace("{organization}", organization).replace("{name}", MARK)
    headers = {"if-match": '"1"'} if operation.versioned else {}
    return await who.ask(operation.method, path, body_for(operation), headers)


async def contents(database_url: str) -> dict[str, list[Any]]:
    """All that belongs to the victim."""
    rows: dict[str, list[Any]] = {}
    for (table,) in await fetch(
        database_url,
        "select table_name from information_schema.columns where column_name = 'organization'"
        " and table_name in (select tablename::text from pg_tables where schemaname = 'public')",
    ):
        query = f"select row_to_json(t)::text from {table} t where organization = 'victim' order by 1"
        rows[str(table)] = await fetch(database_url, query)
    rows["organization"] = await fetch(
        database_url, "select row_to_json(t)::text from organization t where name = 'victim'"
    )
    return rows


async def test_no_operation_reaches_another_tenant(victim: Client, attacker: Client, database_url: str) -> None:
    """Whatever operation there is, or will be. What is out of reach looks like what does not exist."""

    def shown(told: Told) -> tuple[int, bytes]:
        return told.status, re.sub(rb"urn:uuid:[0-9a-f-]+", b"", told.body)

    before = await contents(database_url)
    for operation in operations():
        told = await ask(attacker, operation, "victim")
        assert MARK not in told.body.decode(), operation
        assert await contents(database_url) == before, operation
        if "{organization}" in operation.path:
            assert told.status == 404, operation
            assert shown(told) == shown(await ask(attacker, operation, "nowhere")), operation
        elif operation.for_all:
            assert told.status == 403, operation


async def test_the_same_operations_are_open_to_the_tenant_itself(victim: Client) -> None:
    """The control: what fails above fails for who asks, not for what is asked."""
    for operation in operations():
        if "{organization}" in operation.path:
            told = await ask(victim, operation, "victim")
            # 409: there is one already. 412: an operation before this one has changed it.
            assert told.status in (200, 201, 204, 409, 412), (operation, told.body)


async def test_no_operation_without_a_credential(victim: Client) -> None:
    for operation in operations():
        for token in (None, "", "wrong", "tg_live_" + "0" * 38, "x" * 5000):
            told = await ask(victim.as_(token), operation, "victim")
            assert told.status == 401, operation
            assert told.headers["www-authenticate"].startswith("Bearer")


async def test_no_operation_without_its_permission(client: Client, victim: Client) -> None:
    keeper = "/v1/organizations/keeper"
    await client.make("/v1/organizations", name="keeper", operator=True)
    for permission in sorted({operation.permission for operation in operations() if operation.permission}):
        resource, action = permission.split(":")
        other = "read" if action == "write" else "write"
        for granted in (["*:*", f"!{permission}"], [f"{resource}:{other}"], [f"{permission} if organization == 'x'"]):
            role = await client.make(
                f"{keeper}/roles", name=f"r{len(granted)}-{abs(hash(tuple(granted)))}", permissions=granted
            )
            secret = (await client.make(f"{keeper}/keys", roles=[role["name"]]))["secret"]
            for operation in operations():
                if operation.permission == permission:
                    told = await ask(client.as_(secret), operation, "victim")
                    assert (told.status, told.document["permission"]) == (403, permission), operation


async def test_who_is_above_reaches_below_and_not_the_other_way(client: Client) -> None:
    above = await tenant(client, "above")
    await above.make("/v1/organizations", name="below", parent="above")
    await above.make("/v1/organizations", name="deepest", parent="below")
    below = await tenant(client, "beside", parent="above")
    assert [item["name"] for item in (await above.get("/v1/organizations")).document["items"]] == [
        *("above", "below", "beside", "deepest")
    ]
    await above.make("/v1/organizations/deepest/teams", name="t")
    for name in ("above", "below", "deepest"):
        assert (await below.get(f"/v1/organizations/{name}")).status == 404
    assert [item["name"] for item in (await below.get("/v1/organizations")).document["items"]] == ["beside"]


@pytest.mark.parametrize(
    ("members", "status"),
    [
        ({}, 403),
        ({"parent": "attacker", "operator": True}, 403),
        ({"parent": "victim"}, 422),
        ({"parent": "nowhere"}, 422),
        ({"parent": "attacker"}, 201),
    ],
)
async def test_organizations_are_founded_below_ones_own(attacker: Client, members: dict[str, Any], status: int) -> None:
    assert (await attacker.ask("POST", "/v1/organizations", {"name": "new", **members})).status == status


class TestKeysAsCredentials:
    @pytest.mark.parametrize(
        ("members", "status"),
        [
            ({}, 200),
            ({"networks": ["127.0.0.0/8"]}, 200),
            ({"networks": ["192.0.2.0/24", "2001:db8::/32"]}, 401),
            ({"routes": ["api"]}, 401),
            ({"expires_at": "2020-01-01T00:00:00Z"}, 401),
            ({"expires_at": "2040-01-01T00:00:00Z"}, 200),
        ],
    )
    async def test_restrictions(self, client: Client, members: dict[str, Any], status: int) -> None:
        await client.make("/v1/organizations", name="acme")
        secret = (await client.make("/v1/organizations/acme/keys", name="k"))["secret"]
        assert (await client.change("/v1/organizations/acme/keys/k", **members)).status == 200
        assert (await client.as_(secret).get("/v1/identity")).status == status

    @pytest.mark.parametrize("switch", ["", "/users/u", "/service-accounts/s"])
    async def test_a_switch(self, client: Client, switch: str) -> None:
        home = "/v1/organizations/acme"
        await client.make("/v1/organizations", name="acme")
        await client.make(f"{home}/users", name="u")
        await client.make(f"{home}/service-accounts", name="s")
        owner = {"/users/u": {"user": "u"}, "/service-accounts/s": {"service_account": "s"}}.get(switch, {})
        secret = (await client.make(f"{home}/keys", **owner))["secret"]
        for disabled, status in ((True, 401), (False, 200)):
            assert (await client.change(home + switch, disabled=disabled)).status == 200
            assert (await client.as_(secret).get("/v1/identity")).status == status

    async def test_who_it_is(self, client: Client) -> None:
        admin = await tenant(client, "acme", "books:read")
        assert (await admin.get("/v1/identity")).document == {
            "name": "key acme/admin",
            "organization": "acme",
            "permissions": ["books:read"],
        }
        assert (await client.get("/v1/identity")).document["organization"] is None

    @pytest.mark.parametrize("scheme", ["Basic", "", "Bearer\t"])
    async def test_another_scheme(self, client: Client, scheme: str) -> None:
        headers = {"authorization": f"{scheme} {client.token}"}
        assert (await client.ask("GET", "/v1/identity", headers=headers)).status == 401

    async def test_any_number_of_spaces_stands_behind_the_scheme(self, client: Client) -> None:
        """RFC 9110 §11.4; the edge reads it so too."""
        headers = {"authorization": f"Bearer   {client.token}"}
        assert (await client.ask("GET", "/v1/identity", headers=headers)).status == 200

    async def test_an_operator_acts_for_all(self, client: Client) -> None:
        await client.make("/v1/organizations", name="acme")
        operator = await tenant(client, "platform", operator=True)
        await operator.make("/v1/organizations/acme/teams", name="t")
        await operator.make("/v1/roles", name="r", permissions=["books:read"])
        assert (await operator.get("/v1/audit")).status == 200


class TestInTheDatabase:
    """Straight in SQL, as the role that the API acts as."""

    async def test_the_roles_cannot_bypass_it(self, database_url: str) -> None:
        for role in (CONTROL, PUBLISHER):
            async with Database(database_url, role, QUERIES) as database, database.session() as session:
                assert await session.raw.fetchval("select current_user::text") == role
                query = "select rolsuper or rolbypassrls or rolcreaterole from pg_roles where rolname = current_user"
                assert await session.raw.fetchval(query) is False
                owned = "select count(*) from pg_class where pg_has_role(current_user, relowner, 'member')"
                assert await session.raw.fetchval(owned) == 0

    async def test_they_reach_nothing_but_forced_tables(self, database_url: str) -> None:
        """Usage is none of the control plane's business: not the books, nor a day that is opened later."""
        await fetch(database_url, "select open_usage_day(date '2026-01-01')")
        for role, views in ((CONTROL, []), (PUBLISHER, ["published_secret"])):
            async with Database(database_url, role, QUERIES) as database, database.session() as session:
                rows = await session.raw.fetch(
                    "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind <> 'i'"
                    " and not relforcerowsecurity and has_table_privilege(oid, 'select, insert, update, delete')"
                )
                assert [row["relname"] for row in rows] == views

    async def test_every_table_of_the_control_plane_is_forced(self, database_url: str) -> None:
        forced = "select relname from pg_class where relrowsecurity and relforcerowsecurity order by 1"
        ours = "".join(text for name, text in schema_files().items() if name.startswith("control/"))
        made_here = re.findall(r"create table (\w+)", ours)
        assert [row[0] for row in await fetch(database_url, forced)] == sorted(made_here)

    async def test_without_a_tenant_nothing_is_there(self, victim: Client, database_url: str) -> None:
        async with Database(database_url, CONTROL, QUERIES) as database, database.transaction() as connection:
            for table in await tables_of(connection):
                assert await connection.raw.fetchval(f"select count(*) from {table}") == 0, table

    async def test_another_tenant_sees_changes_and_removes_nothing(self, victim: Client, database_url: str) -> None:
        before = await contents(database_url)
        async with Database(database_url, CONTROL, QUERIES) as database:
            async with acting_for(database, "attacker") as connection:
                for table in await tables_of(connection):
                    name = "name" if table == "organization" else "organization"
                    where = f"from {table} where {name} = 'victim'"
                    assert await connection.raw.fetchval(f"select count(*) {where}") == 0, table
                    if table not in ("audit_entry", "api_key", "decision_entry"):
                        assert await connection.raw.execute(f"delete {where}") == "DELETE 0"
                assert await connection.raw.execute("update api_key set title = 'x'") == "UPDATE 0"
                assert await connection.raw.execute("update role set organization = 'attacker'") == "UPDATE 0"
                for moved in ("parent = 'victim'", "path = '{attacker,victim}'", "operator = true", "name = 'root'"):
                    await refused(connection, f"update organization set {moved} where name = 'attacker'")
            for planted in (
                "insert into team (organization, name, title) values ('victim', 'planted', '')",
                "insert into api_secret (digest, organization, key, prefix) values (sha256(''), 'victim', 'admin', '')",
                "insert into organization (name, title, operator, disabled) values ('root', '', false, false)",
                "insert into global_role (name, title, permissions) values ('x', '', '{}')",
                "insert into audit_entry (actor, request, kind, name, action) values ('x', '', '', '', 'create')",
                "delete from decision_entry",
                "select take_decisions('x', 1, now(), now(), '[]')",
            ):
                async with acting_for(database, "attacker") as connection:
                    await refused(connection, planted)
        assert await contents(database_url) == before

    async def test_the_tenant_ends_with_its_transaction(self, victim: Client, database_url: str) -> None:
        async with Database(database_url, CONTROL, QUERIES, connections=1) as database:
            async with acting_for(database, "victim") as connection:
                assert await connection.raw.fetchval("select count(*) from team") == 1
            async with database.session() as session:
                assert await session.raw.fetchval("select count(*) from team") == 0

    async def test_nobody_rewrites_the_audit_log(self, victim: Client, database_url: str) -> None:
        for statement in ("update audit_entry set actor = 'x'", "delete from audit_entry", "truncate audit_entry"):
            for role in (CONTROL, PUBLISHER, "postgres"):
                async with Database(database_url, role, QUERIES) as database, acting_for(database, "*") as connection:
                    await refused(connection, statement)

    async def test_the_publisher_changes_nothing(self, victim: Client, database_url: str) -> None:
        async with Database(database_url, PUBLISHER, QUERIES) as database:
            for statement in ("update api_key set title = ''", "delete from team", "insert into outbox default values"):
                async with database.transaction() as connection:
                    await refused(connection, statement)


async def tables_of(connection: Connection) -> list[str]:
    """The tables that the role may look at and that have rows of organizations."""
    query = (
        "select relname::text from pg_class where relkind = 'r' and relforcerowsecurity"
        " and has_table_privilege(oid, 'select') and relname not in ('global_role', 'token_revocation')"
    )
    return [row[0] for row in await connection.raw.fetch(query)]


async def refused(connection: Connection, statement: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with connection.raw.transaction():
            await connection.raw.execute(statement)
