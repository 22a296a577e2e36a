"""The publisher between a real PostgreSQL and a real Valkey: what was changed is in Redis at once, and in order."""

from __future__ import annotations

from gateway.keys import digest
from gateway.projection import KeyRecord, OrganizationRecord
from gateway.stores.redis import Redis
from tests.fixtures.control import Client
from tests.fixtures.published import Edge, is_record, publishing

HOME = "/v1/organizations/acme"


async def test_a_key_is_known_in_well_under_a_second_and_its_revocation_too(
    acme: Client, database_url: str, redis: Redis, edge: Edge
) -> None:
    async with publishing(database_url, redis):
        await edge.until(lambda: edge.organization("acme"), is_record)
        made = await acme.make(f"{HOME}/keys", name="k", roles=["reader"], routes=["api"], networks=["192.0.2.0/24"])
        took = await edge.until(lambda: edge.key(made["secret"]), is_record)
        assert took < 1.0
        record = await edge.key(made["secret"])
        assert record == KeyRecord(
            id="k",
            name="k",
            organization="acme",
            roles=("reader",),
            permissions=("books:read",),
            routes=("api",),
            networks=("192.0.2.0/24",),
            epoch=1,
        )
        await acme.ask("POST", f"{HOME}/keys/k/revoke")
        took = await edge.until(lambda: edge.key(made["secret"]), lambda found: found.revoked_at is not None)
        assert took < 1.0


async def test_changes_are_numbered_without_a_gap(acme: Client, database_url: str, redis: Redis, edge: Edge) -> None:
    async with publishing(database_url, redis):
        for number in range(20):
            await acme.make(f"{HOME}/keys", name=f"k{number}")
        secret = (await acme.make(f"{HOME}/keys", name="last"))["secret"]
        await edge.until(lambda: edge.key(secret), is_record)
        changes = await edge.changes()
        assert changes[0].kind == "all"
        assert [change.sequence for change in changes] == list(range(1, len(changes) + 1))
        assert digest(secret).hex() in changes[-1].ids


async def test_everything_about_a_key_reaches_it(acme: Client, database_url: str, redis: Redis, edge: Edge) -> None:
    await acme.make(f"{HOME}/teams", name="north")
    await acme.make("/v1/roles", name="guest", permissions=["shop:look"])
    await acme.make(f"{HOME}/roles", name="lead", scope="team", permissions=["books:write"])
    await acme.make(f"{HOME}/users", name="bob")
    await acme.make(f"{HOME}/memberships", name="m", user="bob", roles=["reader"])
    await acme.make(f"{HOME}/memberships", name="n", user="bob", team="north", roles=["lead"])
    await acme.make(f"{HOME}/service-accounts", name="robot", roles=["guest"])
    await acme.make(f"{HOME}/subscriptions", name="s1", plan="gold")
    own = (await acme.make(f"{HOME}/keys", name="own", user="bob"))["secret"]
    team = (await acme.make(f"{HOME}/keys", name="team", user="bob", team="north"))["secret"]
    robot = (await acme.make(f"{HOME}/keys", name="robot", service_account="robot", permissions=["shop:*"]))["secret"]

    async def permissions() -> list[tuple[str, ...]]:
        return [
            record.permissions
            for secret in (own, team, robot)
            if isinstance(record := await edge.key(secret), KeyRecord)
        ]

    async def becomes(*wanted: tuple[str, ...]) -> None:
        await edge.until(permissions, lambda found: [tuple(sorted(each)) for each in found] == list(wanted))

    async with publishing(database_url, redis):
        await becomes(("books:read",), ("books:read", "books:write"), ("shop:look",))
        record = await edge.key(team)
        assert isinstance(record, KeyRecord)
        assert (record.name, record.user, record.subscription, record.plan) == ("bob", "bob", "s1", "gold")
        assert record.attributes == {"team": "north"}
        known = await edge.organization("acme")
        assert isinstance(known, OrganizationRecord)
        assert (known.plan, known.roles) == ("gold", {"guest": ("shop:look",), "reader": ("books:read",)})

        await acme.change(f"{HOME}/roles/reader", permissions=["books:see"])
        await becomes(("books:see",), ("books:see", "books:write"), ("shop:look",))
        await acme.change("/v1/roles/guest", permissions=["shop:buy", "garden:*"])
        await becomes(("books:see",), ("books:see", "books:write"), ("shop:buy",))
        await acme.change(f"{HOME}/memberships/n", roles=[])
        await becomes(("books:see",), ("books:see",), ("shop:buy",))
        await acme.change(f"{HOME}/service-accounts/robot", roles=[])
        await becomes(("books:see",), ("books:see",), ())
        await acme.ask("DELETE", f"{HOME}/memberships/m", headers={"if-match": '"1"'})
        await becomes((), (), ())

        await acme.change(f"{HOME}/subscriptions/s1", ended_at="2026-01-01T00:00:00Z")
        await edge.until(lambda: edge.key(own), lambda found: found.plan == "")
        for path, secret in ((f"{HOME}/users/bob", own), (f"{HOME}/service-accounts/robot", robot)):
            await acme.change(path, disabled=True)
            await edge.until(lambda secret=secret: edge.key(secret), lambda found: found.revoked_at is not None)
            await acme.change(path, disabled=False)
            await edge.until(lambda secret=secret: edge.key(secret), lambda found: found.revoked_at is None)
        await acme.change(HOME, disabled=True)
        await edge.until(lambda: edge.key(robot), lambda found: found.revoked_at is not None)
        assert (await edge.organization("acme")).disabled  # type: ignore[union-attr]


async def test_an_old_secret_ends_and_one_older_is_gone(
    acme: Client, database_url: str, redis: Redis, edge: Edge
) -> None:
    async with publishing(database_url, redis):
        first = (await acme.make(f"{HOME}/keys", name="k"))["secret"]
        second = (await acme.ask("POST", f"{HOME}/keys/k/rotate", {"grace_seconds": 60})).document["secret"]
        await edge.until(lambda: edge.key(second), is_record)
        assert (await edge.key(first)).expires_at is not None  # type: ignore[union-attr]
        third = (await acme.ask("POST", f"{HOME}/keys/k/rotate", {"grace_seconds": 60})).document["secret"]
        await edge.until(lambda: edge.key(third), is_record)
        await edge.until(lambda: edge.key(first), lambda found: found is None)


async def test_revoked_tokens(acme: Client, database_url: str, redis: Redis, edge: Edge) -> None:
    async with publishing(database_url, redis):
        await edge.until(lambda: edge.organization("acme"), is_record)
        token = {"kind": "session", "token": "s1", "expires_at": "2030-01-01T00:00:00Z"}
        made = await acme.make("/v1/revocations", **token)
        assert await edge.until(lambda: edge.revoked("session:s1"), lambda found: found == b"1893456000") < 0.5
        await acme.ask("DELETE", f"/v1/revocations/{made['name']}", headers={"if-match": '"1"'})
        await edge.until(lambda: edge.revoked("session:s1"), lambda found: found is None)
        told = [(change.ids, change.expires_at) for change in await edge.changes() if change.kind == "revocation"]
        assert told == [(("session:s1",), (1893456000,)), (("session:s1",), (0,))]


async def test_an_organization_that_is_gone_is_absent(
    acme: Client, database_url: str, redis: Redis, edge: Edge
) -> None:
    async with publishing(database_url, redis):
        await acme.make("/v1/organizations", name="brief")
        await edge.until(lambda: edge.organization("brief"), is_record)
        await acme.ask("DELETE", "/v1/organizations/brief", headers={"if-match": '"1"'})
        await edge.until(lambda: edge.organization("brief"), lambda found: found is None)
