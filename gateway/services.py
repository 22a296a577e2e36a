"""Services: what a plugin may use, handed to it when it is made; nothing is reached for through a global."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gateway.background import Background
from gateway.clock import Clock
from gateway.consumers import Consumers
from gateway.decisions import Decisions
from gateway.directory.directory import Directory
from gateway.exchange import Request, Response
from gateway.fetch import Fetch
from gateway.log import LineSink
from gateway.metering.journal import Journal
from gateway.metrics import Metrics
from gateway.spans import ExportOptions, SpanSink
from gateway.stores.redis import Redis
from gateway.workers import Workers

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Services:
    """`consumers` are the configuration's own, `directory` knows those of the control plane as well, and `decisions`
    brings to its audit log what was decided.
    `redis` is for what a request waits for: its calls have little time (`stores.deadline`).
    `fetch` asks other servers, and is for what requests seldom wait for.
    `forward(request, upstream)` makes an upstream call outside the chain; `access_log` takes one dict per line;
    `spans(options)` is the way of this process's spans to that collector, the same one for all that ask alike.
    """

    clock: Clock
    metrics: Metrics
    background: Background
    consumers: Consumers
    directory: Directory
    decisions: Decisions
    journal: Journal
    redis: Redis
    workers: Workers
    access_log: LineSink
    forward: Callable[[Request, str], Awaitable[Response]]
    spans: Callable[[ExportOptions], SpanSink]
    fetch: Fetch
    _joint: dict[Hashable, Any] = field(default_factory=dict)

    def joint(self, key: Hashable, make: Callable[[], T]) -> T:
        """What all plugins of one configuration that ask with this key have together; made for the first that asks.

        So that one plugin on a hundred routes fetches once and remembers once. How many there are is bounded by the
        configuration; a reload begins anew.
        """
        if key not in self._joint:
            self._joint[key] = make()
        made: T = self._joint[key]
        return made
