"""Directory: who calls, whether the configuration or the control plane knows of them. One for each configuration."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable

from gateway.consumers import Consumer, Consumers
from gateway.directory.caller import Organization
from gateway.directory.published import Published
from gateway.projection import OrganizationRecord, RevocationKind, name_digest


class Directory:
    """What plugins ask. Nothing waits for what is in memory; what is not comes as an awaitable.

    Without a control plane no store is asked: only the fixed consumers are known, any organization may call, and
    nothing is revoked.
    """

    def __init__(self, consumers: Consumers, published: Published | None) -> None:
        self._fixed = consumers.by_key_digest
        self._published = published

    def by_key_digest(self, digest: bytes) -> Consumer | Awaitable[Consumer | None] | None:
        """The caller whose key has this SHA-256, a fixed consumer or a `Caller`; None for a key that is not valid.

        Either raises StoreDown where nobody can tell now.
        """
        fixed = self._fixed(digest)
        if fixed is not None or self._published is None:
            return fixed
        return self._published.keys.find(digest)

    def organization(self, name: str) -> Organization | Awaitable[Organization | None] | None:
        """The organization of this name; None for one that there is not, or that is disabled.

        Either raises StoreDown where nobody can tell now.
        """
        if self._published is None:
            return Organization(OrganizationRecord(name=name))
        return self._published.organizations.find(name_digest(name))

    def permissions_of(self, organization: str, roles: Iterable[str]) -> tuple[str, ...] | Awaitable[tuple[str, ...]]:
        """What these roles may do in an organization. Raises StoreDown, as `organization` does."""
        found = self.organization(organization)
        if isinstance(found, Organization) or found is None:
            return _permissions(found, roles)
        return _permissions_of(found, tuple(roles))

    def is_revoked(self, kind: RevocationKind, identifier: str) -> bool:
        """Whether a token is revoked by its `jti`, session or subject. Raises StoreDown where nobody can tell now."""
        return self._published is not None and self._published.revocations.is_revoked(kind, identifier)


async def _permissions_of(finding: Awaitable[Organization | None], roles: Iterable[str]) -> tuple[str, ...]:
    return _permissions(await finding, roles)


def _permissions(organization: Organization | None, roles: Iterable[str]) -> tuple[str, ...]:
    return organization.permissions_of(roles) if organization is not None else ()
