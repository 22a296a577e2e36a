"""What the directory may hold, and for how long."""

from __future__ import annotations

from pydantic import Field

from gateway.options import Duration, Options


class DirectoryOptions(Options):
    """Callers that a control plane publishes in Redis. The section, even an empty one, switches it on; without it
    only the fixed `consumers` are known, and no store is asked. What `authorize` refuses is then counted in the audit
    log of that control plane.

    Tokens are then taken only where the control plane knows the organization that they name, and what the roles in them
    may do it alone says: the section `roles` no longer counts for tokens. One of an organization that it does not know,
    or that is disabled, is refused (401), and the access log says `token refused: organization`.
    """

    cache: int = Field(default=100_000, ge=1)
    """Keys that each edge process remembers; the one that was not used for the longest makes room."""
    absent: int = Field(default=10_000, ge=1)
    """Keys that each edge process remembers not to exist."""
    absent_ttl: Duration = Field(default=5.0, gt=0)
    """How long it remembers that. A key that is made meanwhile is known at once, because that is published."""
    organizations: int = Field(default=10_000, ge=1)
    """Organizations that each edge process remembers, for callers whose tokens name them."""
    revocations: int = Field(default=100_000, ge=1)
    """Revoked tokens that each edge process can hold. All are needed: with more of them tokens are answered 503."""
    max_staleness: Duration = Field(default=600.0, ge=5)
    """How long a known caller is served while the store cannot be asked whether that still holds."""
