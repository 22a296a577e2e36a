"""Names of roles are authority too, as routes may ask for them: nobody comes to one by what they may otherwise do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.projection import KeyRecord
from gateway.stores.redis import Redis
from tests.fixtures.control import Client, tenant
from tests.fixtures.published import Edge, is_record, publishing

HOME = "/v1/organizations/acme"
NARROW = {"permissions": ["none:read"]}


class TestANarrowedKey:
    @pytest.fixture
    async def clerk(self, client: Client) -> Client:
        """May keep keys, memberships and service accounts, and nothing that the role `boss` allows."""
        clerk = await tenant(client, "acme", "control/keys:*", "control/memberships:*", "control/service-accounts:*")
        await client.make(f"{HOME}/roles", name="boss", permissions=["secret:read"])
        await client.make(f"{HOME}/users", name="bob")
        await client.make(f"{HOME}/memberships", user="bob", roles=["boss"])
        await client.make(f"{HOME}/service-accounts", name="robot", roles=["boss"])
        await client.make(f"{HOME}/keys", name="narrow", roles=["boss"], **NARROW)
        await client.make(f"{HOME}/keys", name="empty", **NARROW)
        return clerk

    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("POST", "keys", {"roles": ["boss"], **NARROW}),
            ("POST", "keys", {"user": "bob", **NARROW}),
            ("POST", "keys", {"service_account": "robot", **NARROW}),
            ("PATCH", "keys/empty", {"roles": ["boss"]}),
            ("PATCH", "keys/narrow", {"permissions": ["none:*"]}),
            ("PATCH", "keys/narrow", {"permissions": None}),
            ("POST", "keys/narrow/rotate", {}),
        ],
    )
    async def test_a_role_is_given_with_all_that_it_allows(
        self, client: Client, clerk: Client, method: str, path: str, body: Any
    ) -> None:
        headers = {"if-match": '"1"'} if method == "PATCH" else {}
        told = await clerk.ask(method, f"{HOME}/{path}", body, headers)
        assert (told.status, told.document["permission"]) == (403, "secret:read")
        assert (await client.ask(method, f"{HOME}/{path}", body, headers)).status in (200, 201)

    async def test_it_has_no_roles_at_the_edge(
        self, client: Client, clerk: Client, database_url: str, redis: Redis, edge: Edge
    ) -> None:
        """What is left of its permissions is all that it has; without them, it has its roles again."""
        secret = (await client.make(f"{HOME}/keys", name="k", roles=["boss"], **NARROW))["secret"]
        async with publishing(database_url, redis):
            await edge.until(lambda: edge.key(secret), is_record)
            record = await edge.key(secret)
            assert isinstance(record, KeyRecord)
            assert (record.roles, record.permissions) == ((), ())
            await client.change(f"{HOME}/keys/k", permissions=None)
            await edge.until(lambda: edge.key(secret), lambda found: found.roles == ("boss",))

    async def test_a_role_that_is_gone_has_no_name_at_the_edge(
        self, client: Client, clerk: Client, database_url: str, redis: Redis, edge: Edge
    ) -> None:
        await client.make("/v1/roles", name="partner", permissions=[])
        secret = (await client.make(f"{HOME}/keys", name="k", roles=["partner", "boss"]))["secret"]
        async with publishing(database_url, redis):
            await edge.until(lambda: edge.key(secret), lambda found: is_record(found) and "partner" in found.roles)
            await client.ask("DELETE", "/v1/roles/partner", headers={"if-match": '"1"'})
            await edge.until(lambda: edge.key(secret), lambda found: found.roles == ("boss",))


class TestAMereName:
    """A role of all that allows nothing: routes ask for its name."""

    @pytest.fixture
    async def clerk(self, client: Client) -> Client:
        """May do everything in an organization, and has no role of all."""
        await client.make("/v1/roles", name="partner", permissions=["!shop:*"])
        clerk = await tenant(client, "acme")
        await client.make(f"{HOME}/users", name="bob")
        await client.make(f"{HOME}/service-accounts", name="robot")
        await client.make(f"{HOME}/keys", name="k")
        return clerk

    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("POST", "keys", {"roles": ["partner"]}),
            ("POST", "keys", {"roles": ["partner"], **NARROW}),
            ("PATCH", "keys/k", {"roles": ["partner"]}),
            ("POST", "memberships", {"user": "bob", "roles": ["partner"]}),
            ("POST", "service-accounts", {"name": "x", "roles": ["partner"]}),
            ("PATCH", "service-accounts/robot", {"roles": ["partner"]}),
            ("POST", "roles", {"name": "partner", "permissions": ["!shop:*"]}),
        ],
    )
    async def test_who_does_not_have_it_cannot_give_it(
        self, client: Client, clerk: Client, method: str, path: str, body: Any
    ) -> None:
        headers = {"if-match": '"1"'} if method == "PATCH" else {}
        told = await clerk.ask(method, f"{HOME}/{path}", body, headers)
        assert told.status == 403
        assert "the role partner" in told.document["detail"]
        having = (await client.make(f"{HOME}/keys", roles=["admin", "partner"]))["secret"]
        assert (await client.as_(having).ask(method, f"{HOME}/{path}", body, headers)).status in (200, 201)

    async def test_who_acts_for_all_gives_it(self, client: Client, clerk: Client) -> None:
        operator = await tenant(client, "platform", operator=True)
        await operator.make(f"{HOME}/keys", roles=["partner"])

    async def test_who_is_narrowed_does_not_have_it(self, client: Client, clerk: Client) -> None:
        narrowed = await client.make(f"{HOME}/keys", roles=["admin", "partner"], permissions=["*:*"])
        told = await client.as_(narrowed["secret"]).ask("POST", f"{HOME}/keys", {"roles": ["partner"]})
        assert told.status == 403


class TestNamesOfRolesOfAll:
    async def test_who_could_give_it_makes_one_of_the_same_name(self, client: Client) -> None:
        clerk = await tenant(client, "acme", "control/roles:*", "shop:look")
        for name, permission, status in (("guest", "shop:look", 201), ("buyer", "shop:buy", 403)):
            await client.make("/v1/roles", name=name, permissions=[permission])
            told = await clerk.ask("POST", f"{HOME}/roles", {"name": name, "permissions": []})
            assert told.status == status

    async def test_a_name_that_organizations_use(self, client: Client) -> None:
        await tenant(client, "acme")
        told = await client.ask("POST", "/v1/roles", {"name": "admin", "permissions": []})
        assert (told.status, told.document["title"]) == (409, "There is such a thing already")
        assert told.document["detail"] == (
            "There are organizations with a role of their own of this name, such as acme."
        )

    async def test_at_the_same_time(self, client: Client) -> None:
        """One of them is first, and the other one is told so."""
        clerk = await tenant(client, "acme")
        for number in range(8):
            body = {"name": f"vip{number}", "permissions": []}
            told = await asyncio.gather(client.ask("POST", "/v1/roles", body), clerk.ask("POST", f"{HOME}/roles", body))
            assert sorted(each.status for each in told) in ([201, 403], [201, 409])
