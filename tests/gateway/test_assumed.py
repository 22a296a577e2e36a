"""Who is assumed to call: consumers of the configuration, somebody else, and people who cannot be."""

from __future__ import annotations

import pytest

from gateway.assumed import NOBODY, Assumed
from gateway.consumers import Consumer, ConsumerOptions
from gateway.problem import InvalidValues

KNOWN = [
    ConsumerOptions(
        name="robot",
        organization="acme",
        roles=["reader"],
        permissions=["notes:read"],
        attributes={"site": "north"},
    )
]
ROLES = {"reader": ["books:read"], "editor": ["books:*", "notes:read"]}


def consumer(**said: object) -> Consumer | None:
    return Assumed(**said).consumer(KNOWN, ROLES)  # type: ignore[arg-type]


def test_nobody() -> None:
    assert NOBODY.consumer(KNOWN, ROLES) is None
    assert NOBODY.address() == ""
    assert consumer(client="192.0.2.7") is None, "an address is not somebody"


def test_a_consumer_of_the_configuration_and_what_it_has_besides() -> None:
    robot = consumer(name="robot", user="u-7")
    assert robot is not None
    assert (robot.name, robot.organization, robot.user) == ("robot", "acme", "u-7")
    assert (robot.roles, robot.permissions) == ({"reader"}, ("books:read", "notes:read"))
    assert robot.attributes == {"site": "north"}
    more = consumer(name="robot", organization="acme", roles=("editor",), permissions=("!books:delete",))
    assert more is not None
    assert more.roles == {"reader", "editor"}
    assert more.permissions == ("books:read", "books:*", "notes:read", "!books:delete")


def test_somebody_else() -> None:
    somebody = consumer(organization="other", roles=("reader", "unheard-of"), scopes=("a",))
    assert somebody is not None
    assert (somebody.name, somebody.organization, somebody.scopes) == ("somebody", "other", {"a"})
    assert (somebody.roles, somebody.permissions) == ({"reader", "unheard-of"}, ("books:read",))


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"name": "robto"}, 'no consumer "robto" (did you mean "robot"?)'),
        ({"name": "robot", "organization": "other"}, "robot belongs to acme, not to other"),
        ({"roles": ("reader",)}, "say which"),
        ({"organization": "acme", "permissions": ("Books",)}, "not a permission"),
        ({"organization": "a\r\nb"}, "visible ASCII"),
    ],
)
def test_people_who_cannot_be(said: dict[str, object], complaint: str) -> None:
    with pytest.raises(InvalidValues) as refused:
        consumer(**said)
    assert complaint in str(refused.value)


def test_an_address_that_is_none() -> None:
    assert Assumed(client="::1").address() == "::1"
    with pytest.raises(InvalidValues):
        Assumed(client="localhost").address()
