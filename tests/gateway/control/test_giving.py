"""Nobody gives more than they have, in whatever way it could be given."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fixtures.control import Client, tenant


class TestNobodyGivesMoreThanTheyHave:
    @pytest.fixture
    async def clerk(self, client: Client) -> Client:
        """May keep keys and roles, and read books; not more."""
        clerk = await tenant(client, "acme", "control/keys:*", "control/roles:*", "control/memberships:*", "books:read")
        await client.make("/v1/organizations/acme/roles", name="owner", permissions=["*:*"])
        await client.make("/v1/organizations/acme/users", name="boss")
        await client.make("/v1/organizations/acme/memberships", user="boss", roles=["owner"])
        await client.make("/v1/organizations/acme/keys", name="boss", user="boss")
        return clerk

    @pytest.mark.parametrize(
        ("path", "body", "status"),
        [
            ("roles", {"name": "x", "permissions": ["books:read"]}, 201),
            ("roles", {"name": "x", "permissions": ["control/keys:write", "!books:*"]}, 201),
            ("roles", {"name": "x", "permissions": ["books:*"]}, 403),
            ("roles", {"name": "x", "permissions": ["control/users:read"]}, 403),
            ("roles", {"name": "x", "permissions": ["*"]}, 403),
            ("keys", {"roles": ["admin"]}, 201),
            ("keys", {"roles": ["owner"]}, 403),
            ("keys", {"roles": ["owner"], "permissions": ["books:read"]}, 403),
            ("keys", {"user": "boss"}, 403),
            ("keys/boss/rotate", {}, 403),
            ("memberships", {"user": "boss", "team": None, "roles": ["owner"]}, 409),
        ],
    )
    async def test_giving(self, clerk: Client, path: str, body: dict[str, Any], status: int) -> None:
        told = await clerk.ask("POST", f"/v1/organizations/acme/{path}", body)
        assert told.status == status, told.body

    async def test_changing(self, clerk: Client) -> None:
        await clerk.make("/v1/organizations/acme/roles", name="mine", permissions=["books:read"])
        path = "/v1/organizations/acme/roles/mine"
        assert (await clerk.change(path, permissions=["*:*"])).status == 403
        assert (await clerk.get(path)).document["permissions"] == ["books:read"]
        made = await clerk.make("/v1/organizations/acme/keys", name="k")
        assert made["version"] == 1
        assert (await clerk.change("/v1/organizations/acme/keys/k", roles=["owner"])).status == 403

    async def test_whoever_is_denied_something_passes_that_on(self, client: Client) -> None:
        clerk = await tenant(client, "acme", "*:*", "!control/subscriptions:*")
        path = "/v1/organizations/acme/roles"
        assert (await clerk.ask("POST", path, {"name": "a", "permissions": ["*:*"]})).status == 403
        await clerk.make(path, name="b", permissions=["*:*", "!control/subscriptions:*"])


class TestNobodyLiftsWhatIsDenied:
    """A denial that goes is a permission for everybody whom only it kept from something: its maker too."""

    @pytest.fixture
    async def clerk(self, client: Client) -> Client:
        """May do everything but what `restrained` denies: by a role of all, a membership of a team, and a key's own."""
        home = "/v1/organizations/acme"
        await client.make("/v1/organizations", name="acme")
        await client.make("/v1/roles", name="everywhere", permissions=["!control/subscriptions:*"])
        await client.make(f"{home}/roles", name="all", permissions=["*:*"])
        await client.make(f"{home}/roles", name="here", scope="team", permissions=["!control/users:write"])
        await client.make(f"{home}/teams", name="t")
        await client.make(f"{home}/users", name="clerk")
        await client.make(f"{home}/memberships", name="m", user="clerk", roles=["all", "everywhere"])
        await client.make(f"{home}/memberships", name="n", user="clerk", team="t", roles=["here"])
        key = await client.make(f"{home}/keys", name="k", user="clerk", team="t")
        return client.as_(key["secret"])

    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("POST", "roles", {"name": "everywhere", "permissions": []}),
            ("POST", "roles", {"name": "everywhere", "permissions": ["!control/subscriptions:write"]}),
            ("PATCH", "roles/here", {"permissions": []}),
            ("PATCH", "roles/here", {"permissions": ["!control/users:write if organization == 'x'"]}),
            ("PATCH", "memberships/m", {"roles": ["all"]}),
            ("PATCH", "memberships/n", {"roles": []}),
            ("DELETE", "memberships/n", None),
            ("POST", "keys", {"user": "clerk"}),
        ],
    )
    async def test_lifting(self, client: Client, clerk: Client, method: str, path: str, body: Any) -> None:
        path = f"/v1/organizations/acme/{path}"
        headers = {"if-match": '"1"'} if method != "POST" else {}
        assert (await clerk.ask(method, path, body, headers)).status == 403
        for closed, members in (("subscriptions", {"plan": "x"}), ("users", {"name": "x"})):
            assert (await clerk.ask("POST", f"/v1/organizations/acme/{closed}", members)).status == 403
        told = await client.ask(method, path, body, headers)
        assert told.status in (200, 201, 204), told.body

    async def test_a_key_is_compared_whole(self, clerk: Client) -> None:
        """What it may not do by its roles it does not come to by its own list."""
        assert (await clerk.change("/v1/organizations/acme/keys/k", permissions=["*:*", "!a:b"])).status == 200
        assert (await clerk.change("/v1/organizations/acme/keys/k", permissions=["*:*"])).status == 403
        assert (await clerk.ask("POST", "/v1/organizations/acme/users", {"name": "x"})).status == 403

    async def test_what_is_denied_otherwise_too(self, client: Client, clerk: Client) -> None:
        """The control: denying more, or the same in another place, is anybody's who may keep roles."""
        home = "/v1/organizations/acme"
        await clerk.make(f"{home}/roles", name="everywhere", permissions=["!control/subscriptions:*", "!books:*"])
        assert (await clerk.change(f"{home}/roles/here", permissions=["!control/users:write", "!a:b"])).status == 200
        assert (await clerk.change(f"{home}/memberships/n", roles=["here", "everywhere"])).status == 200

    async def test_a_role_does_not_change_whom_it_is_for(self, client: Client, clerk: Client) -> None:
        """Tokens have no roles of teams: one that becomes such would deny them nothing any more."""
        told = await client.ask("PATCH", "/v1/organizations/acme/roles/all", {"scope": "team"}, {"if-match": '"1"'})
        assert told.status == 422

    async def test_a_role_that_stood_before_one_of_all(self, client: Client) -> None:
        """Without it the one of all counts: removing it gives that."""
        clerk = await tenant(client, "acme", "control/roles:*")
        await client.make("/v1/roles", name="guest", permissions=["shop:look"])
        await client.make("/v1/organizations/acme/roles", name="guest", permissions=["!shop:*"])
        told = await clerk.ask("DELETE", "/v1/organizations/acme/roles/guest", None, {"if-match": '"1"'})
        assert (told.status, told.document["permission"]) == (403, "shop:look")
        await client.make("/v1/organizations/acme/roles", name="idle", permissions=["x:y"])
        assert (await clerk.ask("DELETE", "/v1/organizations/acme/roles/idle", None, {"if-match": '"1"'})).status == 204
