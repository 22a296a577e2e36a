"""Lasting: what an edge process has for as long as it lives, whatever its configuration."""

from __future__ import annotations

from gateway.clock import Clock
from gateway.decisions import Decisions
from gateway.directory.published import Published
from gateway.downstream.traffic import Traffic
from gateway.fetch import Fetch
from gateway.log import LineSink
from gateway.metering.journal import Journal
from gateway.metrics import Metrics
from gateway.stores.redis import Redis
from gateway.upstream.replay import ReplayMemory
from gateway.upstream.target import TargetStates
from gateway.workers import Workers


class Lasting:
    """The parts that every runtime of a process is given."""

    def __init__(
        self,
        *,
        clock: Clock,
        metrics: Metrics,
        journal: Journal,
        redis: Redis,
        access_log: LineSink,
        decisions: Decisions,
        published: Published | None = None,
    ) -> None:
        """`redis` is one whose deadline suits requests that wait for it; `published` what a control plane publishes,
        where there is one.
        """
        self.clock = clock
        self.metrics = metrics
        self.journal = journal
        self.redis = redis
        self.access_log = access_log
        self.decisions = decisions
        self.published = published
        self.traffic = Traffic(metrics)
        self.fetch = Fetch()
        self.workers = Workers(metrics)
        self.memory = ReplayMemory(metrics)
        self.states = TargetStates()

    async def close(self) -> None:
        """Closes what is its own: the rest was handed in."""
        await self.fetch.close()
        self.workers.close()
