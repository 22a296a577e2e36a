"""Roles, permissions and who must be known first: what the configuration may say, and what it is told otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.composition import ConfigError
from gateway.config.description import describe
from gateway.consumers import Consumers
from tests.fixtures.configuration import HEAD, ROUTES, loaded

CONSUMER = """\
consumers:
  - name: ann
    organization: acme
    keys: [{id: k, sha256: 9c2fe6c606121ba1d4f45cdea9e4a40d35fc53fcc3564da49ec997b8c1faf15d}]
"""
KEY = bytes.fromhex("9c2fe6c606121ba1d4f45cdea9e4a40d35fc53fcc3564da49ec997b8c1faf15d")
ROLES = "roles:\n  reader: ['books:read', 'notes:read']\n  admin: ['*', '!books:delete']\n"


def complaints(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(text)
    return caught.value.errors


def routed(*plugins: str) -> str:
    lines = "".join(f"      - {plugin}\n" for plugin in plugins)
    return HEAD + f"routes:\n  - name: all\n    upstream: demo\n    plugins:\n{lines}"


def test_roles_become_permissions_once(here: Path) -> None:
    more = "    roles: [reader, admin]\n    permissions: ['cars:drive', 'books:read']\n    attributes: {team: red}\n"
    config = loaded(HEAD + ROUTES + ROLES + CONSUMER + more)
    consumers = Consumers(config.consumers, config.roles)
    ann = consumers.by_key_digest(KEY)
    assert ann is not None
    assert ann.roles == {"reader", "admin"}
    assert ann.permissions == ("books:read", "notes:read", "*", "!books:delete", "cars:drive")
    assert ann.attributes == {"team": "red"}
    assert ann.grants.decide("cars:drive").allowed
    assert not ann.grants.decide("books:delete").allowed
    assert consumers.permissions_of(["reader", "nobody"]) == ("books:read", "notes:read")
    described = describe(config)
    assert described["gateway"]["roles.admin"] == "*, !books:delete"
    assert described["consumer ann"]["roles"] == "reader, admin"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("roles: {reader: ['Books']}", "gateway.yaml:4: roles.reader[0]: not a permission: 'Books' (write resource"),
        (
            "roles:\n  reader:\n    - books:read\n    - a:b if usr == 'x'",
            "gateway.yaml:7: roles.reader[1]: unknown fact usr",
        ),
        ("roles: {reader: books}", "gateway.yaml:4: roles.reader: must be a list, not text"),
        (ROLES + CONSUMER + "    roles: [raeder]", 'unknown role "raeder" (did you mean "reader"?)'),
        (CONSUMER + "    roles: [reader]", 'gateway.yaml:8: consumers[0].roles[0]: unknown role "reader"'),
        (CONSUMER + "    permissions: ['books:']", "gateway.yaml:8: consumers[0].permissions[0]: not a permission"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_line(here: Path, text: str, complaint: str) -> None:
    (line,) = complaints(HEAD + ROUTES + text)
    assert complaint in line


AUTHORIZE = "authorize: {permission: 'books:{action}'}"


@pytest.mark.parametrize("plugin", [AUTHORIZE, "authorize_api:"])
def test_who_calls_must_be_known_first(here: Path, plugin: str) -> None:
    needs = f"routes[0].plugins.{plugin.partition(':')[0]}: needs authentication, and no plugin of this route does that"
    assert complaints(routed(plugin)) == [f"gateway.yaml:7: {needs}"]
    assert complaints(routed("ip_filter: {allow: [10.0.0.0/8]}", plugin)) == [f"gateway.yaml:8: {needs}"]
    name = plugin.partition(":")[0]
    for listed in (("key_auth:", plugin), (plugin, "key_auth:")):
        config = loaded(routed(*listed))
        assert [spec.name for spec in config.plugins_of(config.routes[0])] == ["key_auth", name]


def test_wherever_it_is_listed(here: Path) -> None:
    top = f"plugins:\n  - {AUTHORIZE}\n"
    (line,) = complaints(routed("key_auth:") + top)
    assert line.startswith("gateway.yaml:9: plugins.authorize: needs authentication")
    loaded(routed(AUTHORIZE) + "plugins:\n  - key_auth:\n")


def test_what_is_missing_is_said_with_the_wrong_names_but_not_with_what_cannot_be_read(here: Path) -> None:
    several = complaints(routed(AUTHORIZE) + CONSUMER + "    roles: [reader]")
    assert [line.partition(": ")[2] for line in several] == [
        "routes[0].plugins.authorize: needs authentication, and no plugin of this route does that",
        'consumers[0].roles[0]: unknown role "reader"',
    ]
    (unreadable,) = complaints(routed("key_auth: {heder: x}", AUTHORIZE))
    assert "key_auth" in unreadable


@pytest.mark.parametrize(
    ("permission", "wanted"),
    [
        ("agents:${method}", "agents:{method}"),
        ("agents:{method}", "agents:{method}"),
        ("${KIND}:${method}", "cars:{method}"),
    ],
)
def test_the_method_is_the_requests_and_not_the_environments(here: Path, permission: str, wanted: str) -> None:
    text = routed("key_auth:", f'authorize: {{permission: "{permission}"}}')
    config = loaded(text, method="delete", KIND="cars")
    plugin = config.plugins_of(config.routes[0])[1]
    assert plugin.config.permission == wanted  # type: ignore[attr-defined]


def test_without_authorization_a_route_is_known_to_be_open(here: Path) -> None:
    route = describe(loaded(routed("key_auth:", AUTHORIZE)))["route all"]
    assert route["guarded by authorization"] == "authorize"
