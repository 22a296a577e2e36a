"""Options of the billing worker."""

from __future__ import annotations

from pydantic import Field

from gateway.options import Duration, Options


class BillingOptions(Options):
    """The worker that turns usage into rows of PostgreSQL."""

    workers: int = Field(default=1, ge=0, le=64)
    """Worker processes that `tallygate up` starts; 0 when workers run elsewhere."""
    batch: int = Field(default=1000, ge=1, le=5000)
    """Events that one transaction accounts for, about: a frame is never split."""
    connections: int = Field(default=2, ge=1, le=16)
    """Shards that a worker has in hand at once, each in a database connection of its own."""
    poll: Duration = Field(default=0.05, gt=0)
    """How long a shard whose stream was empty is left alone."""
    statement_timeout: Duration = Field(default=10.0, gt=0)
    """A statement that takes longer is given up, and its batch comes back."""
    retention: Duration = Field(default=400 * 86400.0, ge=86400.0)
    """An event older than this is parked rather than booked, as its day may have been archived."""
    days_ahead: int = Field(default=3, ge=1, le=30)
    """Daily partitions that exist before their day begins."""
