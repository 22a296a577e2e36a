"""The directory without a control plane asks no store; with one, fixed consumers come first."""

from __future__ import annotations

from collections.abc import Awaitable

import pytest

from gateway.consumers import Consumer, ConsumerOptions, Consumers, KeyOptions
from gateway.directory.caller import Caller
from gateway.directory.claimed import Claimed
from gateway.directory.directory import Directory
from gateway.keys import digest
from gateway.projection import KeyLimit, OrganizationRecord
from tests.fixtures.configuration import loaded
from tests.fixtures.directory import KEY, OTHER_KEY, process, publisher, until
from tests.fixtures.publishing import Publisher, record
from tests.fixtures.valkey import ValkeyServer, redis, valkey, valkey_process

__all__ = ["publisher", "redis", "valkey", "valkey_process"]

FIXED = Consumers(
    [ConsumerOptions(name="bob", organization="acme", keys=[KeyOptions(id="k1", sha256=digest(KEY).hex())])]
)


def test_without_a_control_plane_nothing_is_asked() -> None:
    directory = Directory(FIXED, None)
    assert directory.by_key_digest(digest(KEY)) is FIXED.by_key_digest(digest(KEY))
    assert directory.by_key_digest(digest(OTHER_KEY)) is None
    assert not directory.is_revoked("jti", "any")


async def test_fixed_consumers_come_first(valkey: ValkeyServer, publisher: Publisher) -> None:
    publisher.keys[OTHER_KEY] = record("other")
    await publisher.put(OTHER_KEY)
    async with process(valkey.url) as edge:
        directory = Directory(FIXED, edge.published)
        assert directory.by_key_digest(digest(KEY)) is FIXED.by_key_digest(digest(KEY))
        looking = directory.by_key_digest(digest(OTHER_KEY))
        assert isinstance(looking, Awaitable)
        other = await looking
        assert isinstance(other, Caller)
        assert directory.by_key_digest(digest(OTHER_KEY)) is other
        assert not directory.is_revoked("subject", "u1")


CLAIMED = Claimed("ann", "acme", roles=frozenset({"reader"}), permissions=("notes:read",))


def test_without_a_control_plane_the_configuration_says_what_roles_may_do() -> None:
    caller = Directory(Consumers([], {"reader": ["books:read"]}), None).caller(CLAIMED)
    assert isinstance(caller, Consumer)
    assert (caller.name, caller.permissions) == ("ann", ("books:read", "notes:read"))
    other = Directory(Consumers([], {"reader": ["maps:read"]}), None).caller(CLAIMED)
    assert isinstance(other, Consumer)
    assert other.permissions == ("maps:read", "notes:read")


def test_who_is_claimed_is_no_consumer_until_it_is_known() -> None:
    assert not isinstance(CLAIMED, Consumer)
    assert not hasattr(CLAIMED, "identity")
    with pytest.raises(ValueError, match="visible ASCII"):
        Claimed("a\nb", "acme")


@pytest.mark.parametrize(("said", "booked_on"), [("s9", "s9"), ("", "s1")])
def test_usage_is_booked_on_what_a_token_says_or_else_the_organization(said: str, booked_on: str) -> None:
    caller = Claimed("ann", "acme", said).known(object(), lambda _: (), "s1", "gold")
    assert (caller.subscription, caller.plan_version) == (booked_on, "gold")


async def test_who_is_claimed_is_what_the_organization_makes_of_it(valkey: ValkeyServer, publisher: Publisher) -> None:
    async with process(valkey.url) as edge:
        directory = Directory(FIXED, edge.published)
        looking = directory.caller(CLAIMED)
        assert isinstance(looking, Awaitable)
        caller = await looking
        assert caller is not None
        assert (caller.permissions, caller.plan_version) == (("books:read", "notes:read"), "gold")
        assert directory.caller(CLAIMED) is caller

        publisher.organizations["acme"] = OrganizationRecord(name="acme", subscription="s2", roles={})
        await publisher.put_organization("acme")

        async def permissions() -> tuple[str, ...] | None:
            found = directory.caller(CLAIMED)
            found = await found if isinstance(found, Awaitable) else found
            return found.permissions if found is not None else None

        async def changed() -> bool:
            return await permissions() == ("notes:read",)

        await until(changed)
        publisher.organizations["acme"] = OrganizationRecord(name="acme", disabled=True)
        await publisher.put_organization("acme")

        async def gone() -> bool:
            return await permissions() is None

        await until(gone)


@pytest.mark.parametrize(
    ("routes", "networks", "route", "address", "may"),
    [
        ((), (), "books", "192.0.2.1", True),
        (("books",), (), "books", "192.0.2.1", True),
        (("books",), (), "pens", "192.0.2.1", False),
        ((), ("192.0.2.0/24", "fd00::/8"), "books", "192.0.2.1", True),
        ((), ("192.0.2.0/24", "fd00::/8"), "books", "::ffff:192.0.2.1", True),
        ((), ("192.0.2.0/24",), "books", "198.51.100.1", False),
        ((), ("192.0.2.0/24",), "books", "", False),
        ((), ("nonsense",), "books", "192.0.2.1", False),
        (("books",), ("192.0.2.0/24",), "pens", "192.0.2.1", False),
    ],
)
def test_what_a_key_may_be_used_for(
    routes: tuple[str, ...], networks: tuple[str, ...], route: str, address: str, may: bool
) -> None:
    caller = Caller(record(routes=routes, networks=networks, limits=(KeyLimit("requests", 5, 60),)))
    assert caller.may_use(route, address) is may
    assert caller.restricted is bool(routes or networks)
    assert caller.limits[0].amount == 5


def test_what_callers_have_alike_is_one_object() -> None:
    one, two = (Caller(record(name, roles=("a", "b"), permissions=("books:read",))) for name in ("one", "two"))
    assert one.roles is two.roles
    assert one.permissions is two.permissions
    assert one.organization is two.organization


ROUTE = """
listeners: [{bind: "127.0.0.1:0"}]
upstreams: {u: {targets: ["http://127.0.0.1:1"]}}
routes: [{name: r, upstream: u}]
"""


@pytest.mark.parametrize("section", ["directory:", "directory: {}", "directory: {cache: 5}"])
@pytest.mark.usefixtures("here")
def test_the_section_switches_it_on(section: str) -> None:
    assert loaded(ROUTE).directory is None
    assert loaded(ROUTE + section).directory is not None
