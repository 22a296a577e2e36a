"""Claimed: a caller as a token describes it, before its organization was asked about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from gateway.consumers import Consumer
from gateway.projection import name_digest


class Claimed(Consumer):
    """What a token claims. What the roles in it may do, and whether there is such an organization, others know: the
    `Directory` makes a caller of it, which is kept here until the organization is another one.
    """

    __slots__ = ("_by", "_caller", "digest")

    def __init__(self, *names: str, **facts: Any) -> None:
        super().__init__(*names, **facts)
        self.digest = name_digest(self.organization)
        """Of the organization's name, as it is looked up."""
        self._by: object = None
        self._caller: Consumer = self

    def known(
        self,
        by: object,
        permissions_of: Callable[[Iterable[str]], tuple[str, ...]],
        subscription: str = "",
        plan_version: str = "",
    ) -> Consumer:
        """The caller; made anew only where `by` is not the same object as the last time."""
        if self._by is not by:
            self._caller = Consumer(
                self.name,
                self.organization,
                self.subscription or subscription,
                plan_version,
                self.key,
                user=self.user,
                roles=self.roles,
                scopes=self.scopes,
                permissions=tuple(dict.fromkeys((*permissions_of(self.roles), *self.permissions))),
                attributes=self.attributes,
            )
            self._by = by
        return self._caller
