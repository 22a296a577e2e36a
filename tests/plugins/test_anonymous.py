from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.config.composition import ConfigError
from gateway.consumers import Consumers
from gateway.exchange import Request
from plugins.anonymous import Anonymous
from tests.fixtures.configuration import HEAD, here, loaded
from tests.play import Stage, ask

__all__ = ["here"]


def calling_from(client: str) -> Request:
    request = ask()
    request.client = client
    return request


async def test_strangers_share_a_name_and_are_told_apart_by_their_address(stage: Stage):
    plugin = stage.make(
        Anonymous, name="guest", organization="public", subscription="s", roles=["r"], permissions=["books:read"]
    )
    one, other = [(await stage.play(plugin, request=calling_from(f"192.0.2.{n}"))).exchange.consumer for n in (1, 2)]
    for consumer in (one, other):
        assert (consumer.name, consumer.organization, consumer.subscription) == ("guest", "public", "s")
        assert (consumer.roles, consumer.permissions) == (frozenset({"r"}), ("books:read",))
        assert consumer.identity == b"X-Tallygate-Consumer: guest\r\nX-Tallygate-Organization: public\r\n"
    assert (one.attributes["address"], other.attributes["address"]) == ("192.0.2.1", "192.0.2.2")


async def test_their_roles_are_those_of_the_configuration(stage: Stage):
    services = replace(stage.services, consumers=Consumers((), {"visitor": ["books:read"]}))
    config = Anonymous.config_type.model_validate(
        {"organization": "o", "roles": ["visitor"], "permissions": ["!books:write"]}
    )
    played = await stage.play(Anonymous(config, services), request=calling_from("192.0.2.1"))  # type: ignore[arg-type]
    assert played.exchange.consumer.permissions == ("books:read", "!books:write")


@pytest.mark.parametrize(
    ("client", "address"),
    [
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::7", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", ""),
    ],
)
async def test_an_ipv6_address_stands_for_its_network(stage: Stage, client: str, address: str):
    played = await stage.play(stage.make(Anonymous, organization="o"), request=calling_from(client))
    assert played.exchange.consumer.attributes["address"] == address


async def test_who_is_remembered_is_not_made_again_and_they_are_bounded(stage: Stage):
    plugin = stage.make(Anonymous, organization="o", max_addresses=2)
    assert isinstance(plugin, Anonymous)
    first = (await stage.play(plugin, request=calling_from("192.0.2.1"))).exchange.consumer
    assert (await stage.play(plugin, request=calling_from("192.0.2.1"))).exchange.consumer is first
    for n in range(50):
        await stage.play(plugin, request=calling_from(f"192.0.2.{n + 2}"))
    assert len(plugin._known) == 2
    again = (await stage.play(plugin, request=calling_from("192.0.2.1"))).exchange.consumer
    assert again is not first
    assert again.attributes == first.attributes


def test_a_role_that_nobody_knows_is_a_mistake_and_not_a_role_without_permissions(here: Path) -> None:
    text = (
        HEAD
        + """\
roles: {reader: ["books:read"]}
routes:
  - name: all
    upstream: demo
    plugins:
      - any_of: {plugins: [anonymous: {organization: o, roles: [reader, readr]}]}
"""
    )
    with pytest.raises(ConfigError) as caught:
        loaded(text)
    where = "gateway.yaml:8: routes[0].plugins.any_of.plugins.anonymous.roles[1]"
    assert caught.value.errors == [f'{where}: unknown role "readr" (did you mean "reader"?)']
    loaded(text.replace(", readr", ""))


async def test_a_reload_that_takes_a_permission_from_a_role_takes_it_from_strangers_at_once(stage: Stage):
    def guest(**roles: list[str]) -> Anonymous:
        services = replace(stage.services, consumers=Consumers(roles=roles))
        return Anonymous(Anonymous.config_type.model_validate({"organization": "o", "roles": ["r"]}), services)  # type: ignore[arg-type]

    before, same, less = guest(r=["books:*"]), guest(r=["books:*"]), guest(r=["books:read"])
    consumer = (await stage.play(before, request=calling_from("192.0.2.1"))).exchange.consumer
    for heir, permissions in ((same, ("books:*",)), (less, ("books:read",))):
        heir.inherit(before)
        again = (await stage.play(heir, request=calling_from("192.0.2.1"))).exchange.consumer
        assert again.permissions == permissions
        assert (again is consumer) == (heir is same)


# Attacks


@pytest.mark.parametrize("credential", ["Bearer tq_live_slip", "Basic YTpi", "Digest a=b", ""])
async def test_whoever_shows_a_credential_is_no_stranger(stage: Stage, credential: str):
    played = await stage.play(stage.make(Anonymous, organization="o"), request=ask(authorization=credential))
    assert played.response.status == 401
    assert played.exchange.consumer is None


async def test_an_identity_that_a_client_makes_up_is_not_used(stage: Stage):
    request = ask(x_tallygate_organization="acme", x_forwarded_for="10.0.0.1")
    request.client = "192.0.2.1"
    consumer = (await stage.play(stage.make(Anonymous, organization="o"), request=request)).exchange.consumer
    assert (consumer.organization, consumer.attributes["address"]) == ("o", "192.0.2.1")
