"""Caller: what a published record says of who calls, made ready for requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from sys import intern
from types import MappingProxyType
from typing import Any, Final

from gateway.consumers import Consumer
from gateway.networks import Networks
from gateway.projection import KeyLimit, KeyRecord, OrganizationRecord

_MOST_SHARED: Final = 4096
_NONE: Final[Mapping[str, str]] = MappingProxyType({})


class Caller(Consumer):
    """A consumer that the control plane knows, with what its key is restricted to, and the `limits` of its own,
    which nothing enforces yet.
    """

    __slots__ = ("_networks", "_routes", "limits", "restricted")

    def __init__(self, record: KeyRecord) -> None:
        """Raises ValueError for a name that cannot stand in a header line."""
        super().__init__(
            record.name,
            intern(record.organization),
            intern(record.subscription),
            intern(record.plan),
            record.id,
            user=record.user,
            roles=_shared(frozenset(record.roles)),
            permissions=_shared(record.permissions),
            attributes=MappingProxyType(record.attributes) if record.attributes else _NONE,
        )
        self.limits: tuple[KeyLimit, ...] = _shared(record.limits)
        self._routes: frozenset[str] = _shared(frozenset(record.routes))
        self._networks = _networks(record.networks) if record.networks else None
        self.restricted = bool(record.routes or record.networks)
        """Whether `may_use` says no to anything."""

    def may_use(self, route: str, address: str) -> bool:
        """Whether the key may be used on this route, from this address."""
        return (not self._routes or route in self._routes) and (self._networks is None or address in self._networks)


class Organization:
    """An organization whose callers may call: what it pays by, and the permissions of each role in it."""

    __slots__ = ("_roles", "name", "plan", "subscription")

    def __init__(self, record: OrganizationRecord) -> None:
        self.name = record.name
        self.subscription = record.subscription
        self.plan = record.plan
        self._roles = record.roles

    def permissions_of(self, roles: Iterable[str]) -> tuple[str, ...]:
        """The permissions of these roles, each once; a role that is not known has none."""
        return tuple(dict.fromkeys(text for role in roles for text in self._roles.get(role, ())))


def _networks(texts: Iterable[str]) -> Networks:
    """Of what is no network nothing is let in, rather than everything."""
    networks = []
    for text in texts:
        try:
            networks.append(ip_network(text))
        except ValueError:
            continue
    return Networks(networks)


class _Shared(dict[Any, Any]):
    """What many callers have alike, such as roles, is one object for all of them."""

    def __call__(self, value: Any) -> Any:
        if len(self) >= _MOST_SHARED:
            self.clear()
        return self.setdefault(value, value)


_shared: Final = _Shared()
