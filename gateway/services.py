"""Services: what a plugin may use, handed to it when it is made; nothing is reached for through a global."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gateway.background import Background
from gateway.clock import Clock
from gateway.consumers import Consumers
from gateway.directory.directory import Directory
from gateway.exchange import Request, Response
from gateway.log import LineSink
from gateway.metering.journal import Journal
from gateway.metrics import Metrics
from gateway.spans import ExportOptions, SpanSink
from gateway.stores.redis import Redis


@dataclass(frozen=True, slots=True)
class Services:
    """`consumers` are the configuration's own, `directory` knows those of the control plane as well.
    `redis` is for what a request waits for: its calls have little time (`stores.deadline`).
    `forward(request, upstream)` makes an upstream call outside the chain; `access_log` takes one dict per line;
    `spans(options)` is the way of this process's spans to that collector, the same one for all that ask alike.
    """

    clock: Clock
    metrics: Metrics
    background: Background
    consumers: Consumers
    directory: Directory
    journal: Journal
    redis: Redis
    access_log: LineSink
    forward: Callable[[Request, str], Awaitable[Response]]
    spans: Callable[[ExportOptions], SpanSink]
