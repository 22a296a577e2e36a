"""Claimed: a caller as a token describes it, before its organization was asked about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from gateway.consumers import Consumer
from gateway.projection import name_digest


class Claimed:
    """What a token claims. It is no consumer: what the roles in it may do, and whether there is such an organization,
    others know. The `Directory` makes a caller of it, which is kept here until the organization is another one.
    """

    __slots__ = ("_by", "_caller", "described", "digest")

    def __init__(self, *names: str, **facts: Any) -> None:
        """Names and facts are a Consumer's. Raises ValueError as it does."""
        self.described = Consumer(*names, **facts)
        """As the token has it, and not to be let in."""
        self.digest = name_digest(self.described.organization)
        """Of the organization's name, as it is looked up."""
        self._by: object = None
        self._caller = self.described

    def known(
        self,
        by: object,
        permissions_of: Callable[[Iterable[str]], tuple[str, ...]],
        subscription: str = "",
        plan_version: str = "",
    ) -> Consumer:
        """The caller; made anew only where `by` is not the same object as the last time."""
        if self._by is not by:
            said = self.described
            self._caller = Consumer(
                said.name,
                said.organization,
                said.subscription or subscription,
                plan_version,
                said.key,
                user=said.user,
                roles=said.roles,
                scopes=said.scopes,
                permissions=tuple(dict.fromkeys((*permissions_of(said.roles), *said.permissions))),
                attributes=said.attributes,
            )
            self._by = by
        return self._caller
