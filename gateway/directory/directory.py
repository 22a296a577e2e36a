"""Directory: who calls, whether the configuration or the control plane knows of them. One for each configuration."""

from __future__ import annotations

from collections.abc import Awaitable

from gateway.consumers import Consumer, Consumers
from gateway.directory.caller import Organization
from gateway.directory.claimed import Claimed
from gateway.directory.published import Published
from gateway.projection import RevocationKind


class Directory:
    """What plugins ask. Nothing waits for what is in memory; what is not comes as an awaitable.

    Without a control plane no store is asked: only the fixed consumers are known, any organization may call, and
    nothing is revoked.
    """

    def __init__(self, consumers: Consumers, published: Published | None) -> None:
        self._consumers = consumers
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

    def caller(self, claimed: Claimed) -> Consumer | Awaitable[Consumer | None] | None:
        """The caller whom a token describes, with what its organization lets its roles do; None if there is no such
        organization, or it is disabled. Without a control plane the configuration says what roles may do.

        Either raises StoreDown where nobody can tell now.
        """
        if self._published is None:
            return claimed.known(self, self._consumers.permissions_of)
        found = self._published.organizations.find(claimed.digest)
        if found is None or isinstance(found, Organization):
            return _caller(claimed, found)
        return _caller_of(claimed, found)

    def is_revoked(self, kind: RevocationKind, identifier: str) -> bool:
        """Whether a token is revoked by its `jti`, session or subject. Raises StoreDown where nobody can tell now."""
        return self._published is not None and self._published.revocations.is_revoked(kind, identifier)


async def _caller_of(claimed: Claimed, finding: Awaitable[Organization | None]) -> Consumer | None:
    return _caller(claimed, await finding)


def _caller(claimed: Claimed, organization: Organization | None) -> Consumer | None:
    if organization is None:
        return None
    return claimed.known(organization, organization.permissions_of, organization.subscription, organization.plan)
