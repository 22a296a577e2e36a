"""Assumed: a caller as somebody describes it who asks what would become of a request, so that nobody has to call."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from ipaddress import ip_address
from typing import Final

import msgspec

from gateway.consumers import Consumer, ConsumerOptions, Consumers, Roles
from gateway.permissions import parse
from gateway.problem import InvalidValues


class Assumed(msgspec.Struct, frozen=True, omit_defaults=True):
    """A consumer of the configuration by its `name`, or somebody of that `organization`; with what it has besides.
    `client` is the address that it calls from.
    """

    name: str = ""
    organization: str = ""
    user: str = ""
    roles: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()
    client: str = ""

    def address(self) -> str:
        """Where it calls from, empty where that was not said. Raises InvalidValues for what is no address."""
        try:
            return str(ip_address(self.client)) if self.client else ""
        except ValueError:
            raise InvalidValues(f"{self.client!r} is no address of a client.") from None

    def consumer(self, known: Iterable[ConsumerOptions], roles: Roles) -> Consumer | None:
        """Who calls, None where nobody was described; `known` and `roles` are the configuration's.

        Raises InvalidValues for somebody who cannot be.
        """
        if msgspec.structs.replace(self, client="") == NOBODY:
            return None
        found = self._known(known) if self.name else None
        if found is None and not self.organization:
            raise InvalidValues("A caller belongs to an organization: say which.")
        if found is not None and self.organization not in ("", found.organization):
            raise InvalidValues(f"{self.name} belongs to {found.organization}, not to {self.organization}.")
        named = (*(found.roles if found is not None else ()), *self.roles)
        own = (*(found.permissions if found is not None else ()), *self.permissions)
        try:
            for text in self.permissions:
                parse(text)
            return Consumer(
                self.name or "somebody",
                found.organization if found is not None else self.organization,
                user=self.user,
                roles=frozenset(named),
                scopes=frozenset(self.scopes),
                permissions=tuple(dict.fromkeys((*Consumers((), roles).permissions_of(named), *own))),
                attributes=found.attributes if found is not None else {},
            )
        except ValueError as error:
            raise InvalidValues(f"{error}.") from None

    def _known(self, known: Iterable[ConsumerOptions]) -> ConsumerOptions:
        by_name = {each.name: each for each in known}
        if self.name not in by_name:
            close = get_close_matches(self.name, by_name, n=1)
            hint = f' (did you mean "{close[0]}"?)' if close else ""
            raise InvalidValues(f'The configuration has no consumer "{self.name}"{hint}.')
        return by_name[self.name]


NOBODY: Final = Assumed()
