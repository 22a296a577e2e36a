"""A customer who is cut off does not go on through its departments, and comes back as it was."""

from __future__ import annotations

import pytest

from gateway.projection import KeyRecord, OrganizationRecord
from gateway.stores.redis import Redis
from tests.fixtures.control import Client, tenant
from tests.fixtures.published import Edge, is_record, publishing

FAMILY = ("above", "below", "deepest", "resting", "beside")


@pytest.fixture
async def family(client: Client) -> dict[str, Client]:
    """Organizations by name, each as a key of its own; `resting` is disabled for itself."""
    found = {
        "above": await tenant(client, "above"),
        "below": await tenant(client, "below", parent="above"),
        "deepest": await tenant(client, "deepest", parent="below"),
        "resting": await tenant(client, "resting", parent="above"),
        "beside": await tenant(client, "beside"),
    }
    assert (await client.change("/v1/organizations/resting", disabled=True)).status == 200
    return found


async def served(edge: Edge, family: dict[str, Client]) -> list[str]:
    """Whose keys the edge serves; one after the other, and tokens like keys once all is published."""
    found = []
    for name, who in family.items():
        key, organization = await edge.key(str(who.token)), await edge.organization(name)
        if isinstance(key, KeyRecord) and isinstance(organization, OrganizationRecord):
            found += [name] if key.revoked_at is None and not organization.disabled else []
    return found


async def test_the_edge_refuses_all_below_within_a_second_and_takes_them_back(
    client: Client, family: dict[str, Client], database_url: str, redis: Redis, edge: Edge
) -> None:
    async def all_of_them() -> list[str]:
        return await served(edge, family)

    async with publishing(database_url, redis):
        await edge.until(all_of_them, lambda found: found == ["above", "below", "deepest", "beside"])
        await client.change("/v1/organizations/above", disabled=True)
        assert await edge.until(all_of_them, lambda found: found == ["beside"]) < 1.0
        await client.change("/v1/organizations/above", disabled=False)
        assert await edge.until(all_of_them, lambda found: found == ["above", "below", "deepest", "beside"]) < 1.0
        await client.change("/v1/organizations/below", disabled=True)
        assert await edge.until(all_of_them, lambda found: found == ["above", "beside"]) < 1.0


async def test_who_is_founded_below_is_cut_off_too(
    client: Client, family: dict[str, Client], database_url: str, redis: Redis, edge: Edge
) -> None:
    await client.change("/v1/organizations/above", disabled=True)
    late = await tenant(client, "late", parent="deepest")
    async with publishing(database_url, redis):
        await edge.until(lambda: edge.organization("late"), is_record)
        assert await served(edge, {"late": late}) == []
        await client.change("/v1/organizations/above", disabled=False)
        await edge.until(lambda: served(edge, {"late": late}), lambda found: found == ["late"])


async def test_writing_all_anew_says_the_same(
    client: Client, family: dict[str, Client], database_url: str, redis: Redis, edge: Edge
) -> None:
    await client.change("/v1/organizations/below", disabled=True)
    async with publishing(database_url, redis):
        await edge.until(lambda: edge.organization("beside"), is_record)
        assert await served(edge, family) == ["above", "beside"]


async def test_the_api_refuses_their_keys_and_says_why_to_who_may_know(
    client: Client, family: dict[str, Client]
) -> None:
    async def statuses() -> dict[str, int]:
        return {name: (await who.get("/v1/identity")).status for name, who in family.items()}

    async def cut_off() -> dict[str, bool]:
        items = (await client.get("/v1/organizations")).document["items"]
        assert [item["disabled"] for item in items if item["name"] == "deepest"] == [False]
        return {item["name"]: item["cut_off"] for item in items}

    before = dict.fromkeys(FAMILY, 200) | {"resting": 401}
    assert await statuses() == before
    assert (await family["above"].get("/v1/organizations/resting")).document["cut_off"] is True
    await client.change("/v1/organizations/above", disabled=True)
    assert await statuses() == dict.fromkeys(FAMILY, 401) | {"beside": 200}
    assert await cut_off() == dict.fromkeys(FAMILY, True) | {"beside": False}
    assert (await client.get("/v1/organizations/deepest")).document["cut_off"] is True
    await client.change("/v1/organizations/above", disabled=False)
    assert await statuses() == before
    assert await cut_off() == dict.fromkeys(FAMILY, False) | {"resting": True}


async def test_only_what_cuts_off_concerns_those_below(
    client: Client, family: dict[str, Client], database_url: str, redis: Redis, edge: Edge
) -> None:
    """A title above rewrites nothing below."""
    async with publishing(database_url, redis):
        await edge.until(lambda: edge.organization("beside"), is_record)
        await client.change("/v1/organizations/above", title="The family")
        await client.make("/v1/organizations", name="last")
        await edge.until(lambda: edge.organization("last"), is_record)
        assert {name for change in await edge.changes() for name in change.ids} == {"above", "last"}
