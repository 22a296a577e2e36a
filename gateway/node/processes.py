"""Processes: the supervisor of a node. It owns the sockets, the edge processes, the admin listener and the steward.

It serves no request itself, so nothing a client sends can end it: sockets, counters and journals outlive a process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from gateway.admin.listener import Admin
from gateway.admin.status import Routes, Status
from gateway.assumed import Assumed
from gateway.background import Background
from gateway.child import Child, ChildFailed
from gateway.clock import Clock
from gateway.config.composition import ConfigError, load
from gateway.config.configuration import GatewayConfig
from gateway.config.description import Description, describe
from gateway.explanation import Explanation, explain, request_of
from gateway.exposition import Exposition
from gateway.metering.adoption import Steward
from gateway.metering.directory import JournalUnusable
from gateway.metrics import Metrics
from gateway.node.edge_process import FLUSH_SECONDS, EdgeProcess
from gateway.node.generation import Generation
from gateway.node.interruption import Interruption
from gateway.node.overview import Overview
from gateway.node.reload import Reloader
from gateway.node.run_directory import RunDirectory
from gateway.node.sockets import CannotListen, cannot_listen, written
from gateway.node.store_health import StoreHealth
from gateway.problem import ConfigurationRefused
from gateway.readings import Source
from gateway.stores.address import postgres_url, redis_url
from gateway.stores.redis import Redis
from gateway.stores.store import StoreUnavailable
from gateway.trouble import Trouble
from gateway.vitals import watch

PROGRAM: Final = (sys.executable, "-P", "-m", "gateway")
"""How this program is started again, as something else than a supervisor; no module is taken from where it runs."""

_log: Final = logging.getLogger(__name__)


class StartFailed(Trouble):
    """It cannot run; the text is one line that says why."""


class Supervisor:
    """Everything of a node that is not billing. `start`, then `stop`, each once."""

    _overview: Overview  # made before the admin listener is, which alone asks for it

    def __init__(
        self,
        config: GatewayConfig,
        path: Path,
        run: RunDirectory,
        *,
        companions: Sequence[Child] = (),
        environment: Mapping[str, str] = os.environ,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        """`path` is the configuration's file, read again at a reload, with this environment. `companions` are somebody
        else's children whose metrics are shown.
        """
        self._first = config
        self._read = lambda: load(path, environment, serving=True)
        self._run = run
        self._companions = companions
        self._program = program
        self._edges: list[EdgeProcess] = []
        self._stops: list[Callable[[float], Awaitable[None]]] = []
        self._started = self._draining = False
        self._health: StoreHealth | None = None
        self._reloader: Reloader | None = None
        self.admin_address = ""

    @property
    def children(self) -> list[Child]:
        """The edge processes."""
        return [edge.child for edge in self._edges]

    @property
    def config(self) -> GatewayConfig:
        """The configuration that is served."""
        return self._first if self._reloader is None else self._reloader.current.config

    @property
    def addresses(self) -> list[str]:
        """Where clients can connect."""
        return [] if self._reloader is None else self._reloader.current.sockets.addresses

    async def start(self) -> None:
        """Listens, and starts everything; all edge processes are ready afterwards. Raises StartFailed."""
        try:
            await self._start()
        except BaseException as error:
            await self.stop(0.0)
            if isinstance(error, CannotListen | ChildFailed | JournalUnusable | StoreUnavailable):
                raise StartFailed(str(error)) from error
            raise

    async def stop(self, deadline_seconds: float) -> None:
        """Accepts no more, gives requests in flight until the deadline, sends the journal, ends everything."""
        self._draining = True
        while self._stops:
            await self._stops.pop()(deadline_seconds)

    def kill(self) -> None:
        """Ends the edge processes at once; `stop` then does not wait for them."""
        for child in self.children:
            child.kill()

    def reload_soon(self) -> None:
        """What SIGHUP asks for: a reload, once everything is started."""
        if self._reloader is not None and self._started and not self._draining:
            self._reloader.reload_soon()

    # What the admin listener shows and does

    async def reload(self) -> list[str]:
        """Has all edge processes serve with what the configuration's file says now; what has changed, a line each.

        Raises ConfigurationRefused, and then nothing has.
        """
        if self._reloader is None or not self._started or self._draining:
            raise ConfigurationRefused(errors=["the gateway is starting or stopping"])
        try:
            return await self._reloader.reload()
        except ConfigError as error:
            raise ConfigurationRefused(errors=error.errors) from error

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Whether requests are served by all processes, and the state of the parts."""
        processes = {edge.child.name: "ready" if edge.child.ready else "starting" for edge in self._edges}
        ready = not self._draining and bool(self._edges) and all(edge.child.ready for edge in self._edges)
        return ready, {
            "draining": self._draining,
            "processes": processes,
            "listeners": self.addresses,
            "configuration": self._reloader.report() if self._reloader is not None else {},
            "stores": self._health.report() if self._health is not None else {},
        }

    async def routes(self) -> Routes:
        """Each route with its plugins in order, and each upstream with how its targets are."""
        return await self._overview.routes(self.config)

    async def status(self) -> Status:
        """The whole of the node."""
        return await self._overview.status(self.config, *self.readiness())

    def explain(self, method: str, url: str, fields: Sequence[tuple[str, str]], caller: Assumed) -> Explanation:
        """What would become of a request. Raises a Problem if it would be refused before it is routed."""
        return explain(self.config, request_of(method, url, fields), caller)

    def description(self) -> Description:
        """What the configuration says that is served, without its secrets."""
        return describe(self.config)

    # Starting and stopping

    async def _start(self) -> None:
        """In the order in which the parts depend on each other; `stop` undoes it backwards."""
        config = self._first
        first = Generation(1, config, slots_of(config))
        self._stops.append(_plain(first.close))
        first.sockets.listen()
        metrics = Metrics(self._run.cells("supervisor"))
        reloader = Reloader(first, self._edges, self._read, metrics=metrics, clock=Clock())
        self._reloader = reloader
        redis = Redis(redis_url(config.stores))
        self._stops.append(lambda _: _close(redis))
        background = Background()
        self._stops.append(lambda _: background.stop())
        await self._start_admin(self._watch(metrics, redis, background))
        steward = Steward(config.usage, redis=redis, clock=Clock(), metrics=metrics)
        self._stops.append(lambda deadline: steward.stop(min(deadline, FLUSH_SECONDS)))
        await steward.start()
        self._edges += [EdgeProcess(slot, lambda: reloader.current, self._command) for slot in range(first.slots)]
        self._stops.append(lambda deadline: self._drain(reloader, deadline))
        await self._start_edges()
        self._stops.append(lambda _: reloader.stop())
        reloader.start()
        self._started = True

    async def _start_edges(self) -> None:
        outcomes = await asyncio.gather(*[edge.child.start() for edge in self._edges], return_exceptions=True)
        for edge, outcome in zip(self._edges, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                raise StartFailed(edge.failure) if edge.failure else outcome

    async def _start_admin(self, exposition: Exposition) -> None:
        admin = Admin(self._first.admin, exposition=exposition, node=self)
        self._stops.append(lambda _: admin.stop())
        try:
            await admin.start()
        except OSError as error:
            raise cannot_listen(self._first.admin.bind, error) from error
        self.admin_address = written(admin.bound)

    async def _drain(self, reloader: Reloader, deadline_seconds: float) -> None:
        drains = asyncio.gather(*[edge.drain(deadline_seconds) for edge in self._edges])
        await asyncio.sleep(0)  # now none of them is started again
        reloader.current.close()  # as long as we hold the sockets, connections would be queued that nobody accepts
        await drains

    def _watch(self, metrics: Metrics, redis: Redis, background: Background) -> Exposition:
        """Begins to measure; what was measured, here and in all processes."""
        clock = Clock()
        postgres = _known_postgres(self._first)
        self._health = StoreHealth(redis, postgres, self._first.usage.shards, metrics=metrics, clock=clock)
        self._health.start(background)
        watch(background, metrics)
        ready = metrics.gauge("tallygate_child_ready", "Whether the child process can do its work: 1 or 0.", ("child",))
        starts = metrics.gauge("tallygate_child_starts", "How often the child process was started.", ("child",))

        def sources() -> Iterator[Source]:
            children = [*self.children, *self._companions]
            for child in children:
                ready.labels(child.name).set(float(child.ready))
                starts.labels(child.name).set(child.starts)
            yield Source("supervisor", self._run.cells("supervisor"), True)
            for child in children:
                yield Source(child.name, self._run.cells(child.name), child.pid is not None)

        self._overview = Overview(self._edges, self._companions, sources, background)
        self._overview.start(lambda: self.config)
        return Exposition(sources)

    def _command(self, slot: int, generation: Generation, control: int) -> list[str]:
        snapshot, *sockets = generation.descriptors(slot)
        arguments = {
            "--slot": slot,
            "--generation": generation.number,
            "--control-fd": control,
            "--snapshot-fd": snapshot,
            "--listen-fds": ",".join(map(str, sockets)),
            "--metrics": self._run.cells(f"edge-{slot}"),
        }
        return [*self._program, "edge-process", *(str(word) for item in arguments.items() for word in item)]


async def run_edge(config: GatewayConfig, path: Path, program: Sequence[str] = PROGRAM) -> None:
    """`tallygate edge`: a supervisor and its edge processes, until SIGTERM or Ctrl-C. Raises StartFailed."""
    with run_directory() as run:
        supervisor = Supervisor(config, path, run, program=program)
        async with Interruption(supervisor.reload_soon) as interruption:
            if await interruption.unless_asked(supervisor.start()):
                _log.info("serving on %s, admin on %s", ", ".join(supervisor.addresses), supervisor.admin_address)
                await interruption.wait()
            await interruption.unless_urgent(supervisor.stop(supervisor.config.drain_timeout), supervisor.kill)


@contextlib.contextmanager
def run_directory() -> Iterator[RunDirectory]:
    """A directory for the run. Raises StartFailed if there is no place for it."""
    try:
        run = RunDirectory()
    except OSError as error:
        raise StartFailed(f"no place for the processes' metrics ({error}): set TMPDIR") from error
    try:
        yield run
    finally:
        run.remove()


def slots_of(config: GatewayConfig) -> int:
    """How many edge processes there are; `auto` is one per core that we may use."""
    return len(os.sched_getaffinity(0)) if config.processes == "auto" else config.processes


def _known_postgres(config: GatewayConfig) -> str | None:
    try:
        return postgres_url(config.stores)
    except StoreUnavailable:  # an edge does not need it
        return None


async def _close(redis: Redis) -> None:
    with contextlib.suppress(StoreUnavailable):
        await redis.close()


def _plain(close: Callable[[], None]) -> Callable[[float], Awaitable[None]]:
    async def stop(_: float) -> None:
        close()

    return stop
