"""App: the composition root of an edge process. It does what its supervisor says, until it is to end."""

from __future__ import annotations

import gc
import logging
import os
from asyncio import Task, get_running_loop, to_thread, wait
from collections.abc import Sequence
from pathlib import Path
from socket import socket
from typing import Final, NamedTuple

from gateway.background import Background
from gateway.clock import Clock
from gateway.config.composition import ConfigError, compose
from gateway.config.configuration import GatewayConfig
from gateway.config.snapshot import read_snapshot
from gateway.decisions import Decisions
from gateway.directory.published import CONNECTIONS, Published
from gateway.edge.control_pipe import (
    Abort,
    Commit,
    Committed,
    ControlPipe,
    Drain,
    Failed,
    Prepare,
    Prepared,
    Ready,
    Refused,
    Report,
    Reported,
)
from gateway.edge.edge import Edge
from gateway.edge.lasting import Lasting
from gateway.edge.runtime import BuildFailed
from gateway.log import LineSink
from gateway.metering.directory import JournalUnusable
from gateway.metering.usage import Usage
from gateway.metrics import Metrics
from gateway.stores.address import redis_url
from gateway.stores.redis import Redis
from gateway.vitals import watch

_FLUSH_SECONDS: Final = 2.0
"""What sending the last usage may take, though requests used up the time to drain."""
_COLLECT: Final = (50_000, 20, 100)
"""Allocations between garbage collections, in three generations: requests leave no cycles behind."""
_MOST_ERRORS: Final = 20
_ABORT_SECONDS: Final = 5.0
"""What a plugin that is starting may take to notice that it is not needed."""

log: Final = logging.getLogger(__name__)


class Follower:
    """Has an edge do what the supervisor says."""

    def __init__(self, edge: Edge, pipe: ControlPipe) -> None:
        self._edge = edge
        self._pipe = pipe
        self._background = Background()
        self._building: Task[None] | None = None

    async def follow(self) -> Drain | None:
        """Until it says drain, or is gone (None). A build does not keep us from hearing what comes next."""
        while True:
            message = await self._pipe.hear()
            match message:
                case Prepare():
                    await self._abort()
                    self._building = self._background.start(self._prepare(message), "build")
                case Commit(generation):
                    taken = await self._edge.commit(generation)
                    self._pipe.say(Committed(generation) if taken else Refused(generation, ["it was not prepared"]))
                case Abort():
                    await self._abort()
                case Report(number):
                    answer = Reported.of(number, self._edge.report())
                    self._pipe.say(answer)
                    answer.close()
                case Drain() | None:
                    await self._background.stop()
                    return message

    async def _prepare(self, order: Prepare) -> None:
        generation = order.generation
        answer: Prepared | Refused = Prepared(generation)
        try:
            await self._build(order)
        except ConfigError as error:
            answer = Refused(generation, error.errors[:_MOST_ERRORS])
        except BuildFailed as error:
            answer = Refused(generation, [str(error)])
        except Exception:  # of a plugin: this process goes on with the configuration that it has
            log.exception("configuration %d cannot be built", generation)
            answer = Refused(generation, ["it cannot be built; the log of the edge process says why"])
        self._pipe.say(answer)

    async def _build(self, order: Prepare) -> None:
        snapshot, *listening = order.descriptors
        sockets = [socket(fileno=descriptor) for descriptor in listening]
        try:
            # In a thread: checking a large configuration takes long enough for requests to notice.
            config, fingerprint = await to_thread(composed, snapshot)
            await self._edge.prepare(order.generation, config, fingerprint, sockets)
        except BaseException:  # cancelled too: these sockets are nobody else's to close
            for sock in sockets:
                sock.close()
            raise

    async def _abort(self) -> None:
        building, self._building = self._building, None
        if building is not None:
            building.cancel()
            await wait({building}, timeout=_ABORT_SECONDS)
        await self._edge.abort()


def composed(snapshot: int) -> tuple[GatewayConfig, str]:
    """The configuration in a snapshot, whose descriptor is closed, and its fingerprint. Raises ConfigError."""
    source = read_snapshot(snapshot)
    os.close(snapshot)
    return compose(source), source.fingerprint()


class Start(NamedTuple):
    """What a supervisor gives to a process that it starts.

    `sockets` are bound, one for each listener of the configuration; `control` is the descriptor of its end of the pipe.
    """

    generation: int
    config: GatewayConfig
    fingerprint: str
    sockets: Sequence[socket]
    control: int


async def serve(
    start: Start,
    usage: Usage,
    access_log: LineSink,
    pipe: ControlPipe,
    *,
    redis: Redis,
    decisions: Decisions,
    published: Published | None,
    metrics: Metrics,
) -> None:
    """Serve until the supervisor says drain, or is gone; then finish what is in flight and hand over the journal."""
    clock, vitals = Clock(), Background()
    watch(vitals, metrics)
    await usage.start()
    if published is not None:
        await published.start()
    decisions.start()
    # What was made so far lives as long as the process: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT)
    lasting = Lasting(
        clock=clock,
        metrics=metrics,
        journal=usage.journal,
        redis=redis,
        access_log=access_log,
        decisions=decisions,
        published=published,
    )
    edge = Edge(lasting)
    await edge.prepare(start.generation, start.config, start.fingerprint, start.sockets)
    await edge.commit(start.generation)
    pipe.say(Ready())
    drain = await Follower(edge, pipe).follow()
    deadline = drain.deadline if drain is not None else edge.drain_timeout
    give_up_at = get_running_loop().time() + deadline
    await edge.stop(deadline)
    await lasting.close()
    await decisions.stop()
    if published is not None:
        await published.stop()
    await usage.stop(max(_FLUSH_SECONDS, give_up_at - get_running_loop().time()))
    await vitals.stop()


async def run(start: Start, *, metrics_path: Path | None, log_to: int) -> int:
    """The body of an edge process; `log_to` is the descriptor of the access log."""
    metrics = Metrics(metrics_path)
    dropped = metrics.counter("tallygate_access_log_dropped_total", "Access log lines that nobody took.")
    pipe = ControlPipe(start.control)
    config, clock = start.config, Clock()
    stores = config.stores
    redis = Redis(redis_url(stores))
    redis_of_requests = Redis(redis_url(stores), deadline=stores.deadline)
    redis_of_directory = Redis(redis_url(stores), connections=CONNECTIONS)
    access_log = LineSink(log_to, dropped=dropped.inc)
    try:
        usage = Usage(config.usage, redis=redis, clock=clock, metrics=metrics)
        published = None
        if config.directory is not None:
            deadline = stores.deadline
            published = Published(config.directory, redis_of_directory, deadline=deadline, clock=clock, metrics=metrics)
        # Somebody takes them up where there is a control plane, and the section `directory` says that there is one.
        decisions = Decisions(redis if config.directory is not None else None, clock, metrics)
        await serve(
            start,
            usage,
            access_log,
            pipe,
            redis=redis_of_requests,
            decisions=decisions,
            published=published,
            metrics=metrics,
        )
    except (JournalUnusable, BuildFailed) as error:
        pipe.say(Failed(str(error)))
        return 1
    finally:
        access_log.close()
        await redis_of_directory.close()
        await redis_of_requests.close()
        await redis.close()
        pipe.close()
    return 0
