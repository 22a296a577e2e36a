"""Processes: the supervisor of a node. It owns the sockets, the edge processes, the admin listener and the steward.

It serves no request itself, so nothing a client sends can end it: sockets, counters and journals outlive a process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from gateway.admin import Admin, describe_routes
from gateway.background import Background
from gateway.child import Child, ChildFailed, Launch
from gateway.clock import Clock
from gateway.config import GatewayConfig
from gateway.control_pipe import ControlPipe, Drain, Failed, Ready
from gateway.exposition import Exposition, Source
from gateway.interruption import Interruption
from gateway.metering.adoption import Steward
from gateway.metering.directory import JournalUnusable
from gateway.metrics import Metrics
from gateway.run_directory import RunDirectory
from gateway.sockets import CannotListen, ListeningSockets, cannot_listen, written
from gateway.store_health import StoreHealth
from gateway.stores.address import postgres_url, redis_url
from gateway.stores.redis import Redis
from gateway.stores.store import StoreUnavailable
from gateway.vitals import watch

PROGRAM: Final = (sys.executable, "-m", "gateway")
"""How this program is started again, as something else than a supervisor."""

FLUSH_SECONDS: Final = 10.0
"""What a process may need on top of the drain timeout to close its journal and plugins."""

_log: Final = logging.getLogger(__name__)


class StartFailed(Exception):
    """It cannot run; the text is one line that says why."""


class EdgeProcess:
    """One slot: the edge process that lives in it, one after another."""

    def __init__(self, slot: int, sockets: Sequence[socket.socket], command: Callable[[int], list[str]]) -> None:
        """`command` is asked for the command line, given the number of the child's end of the control pipe."""
        self.slot = slot
        self.failure = ""
        self._sockets = sockets
        self._command = command
        self._ends: tuple[socket.socket, socket.socket] | None = None
        self._pipe: ControlPipe | None = None
        self._drain: Drain | None = None
        self.child = Child(
            f"edge-{slot}",
            self._launch,
            ready=self._become_ready,
            started=self._started,
            ask_to_stop=self._ask_to_drain,
        )

    async def drain(self, deadline_seconds: float) -> None:
        """Lets it finish what is in flight, and ends it; kills it if it is still there some time after the deadline."""
        self._drain = Drain(deadline_seconds)
        await self.child.stop(deadline_seconds + FLUSH_SECONDS)
        await self._hang_up()

    def _launch(self) -> Launch:
        self._ends = socket.socketpair()
        theirs = self._ends[1].fileno()
        return Launch(self._command(theirs), descriptors=(theirs, *(sock.fileno() for sock in self._sockets)))

    def _started(self) -> None:
        if self._ends is not None:
            self._ends[1].close()  # so that its end closes when it dies

    async def _become_ready(self) -> None:
        await self._hang_up()
        if self._ends is None:
            return
        self._pipe = await ControlPipe.of(self._ends[0].detach())
        self._ask_to_drain()  # which may have been meant for it before it could be told
        while True:
            match await self._pipe.hear():
                case Ready():
                    return
                case Failed(message):
                    self.failure = message
                case _:
                    await asyncio.Event().wait()  # it is about to end, and its end is being watched

    def _ask_to_drain(self) -> None:
        if self._pipe is not None and self._drain is not None:
            self._pipe.say(self._drain)

    async def _hang_up(self) -> None:
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            await pipe.close()


class Supervisor:
    """Everything of a node that is not billing. `start`, then `stop`, each once."""

    def __init__(
        self,
        config: GatewayConfig,
        path: Path,
        run: RunDirectory,
        *,
        companions: Sequence[Child] = (),
        program: Sequence[str] = PROGRAM,
    ) -> None:
        """`path` is the configuration's file. `companions` are somebody else's children whose metrics are shown."""
        self._config = config
        self._path = path
        self._run = run
        self._companions = companions
        self._program = program
        self._edges: list[EdgeProcess] = []
        self._stops: list[Callable[[float], Awaitable[None]]] = []
        self._draining = False
        self._health: StoreHealth | None = None
        self.admin_address = ""
        self.addresses: list[str] = []

    @property
    def children(self) -> list[Child]:
        """The edge processes."""
        return [edge.child for edge in self._edges]

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

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Whether requests are served by all processes, and the state of the parts."""
        processes = {edge.child.name: "ready" if edge.child.ready else "starting" for edge in self._edges}
        ready = not self._draining and bool(self._edges) and all(edge.child.ready for edge in self._edges)
        return ready, {
            "draining": self._draining,
            "processes": processes,
            "listeners": self.addresses,
            "stores": self._health.report() if self._health is not None else {},
        }

    async def _start(self) -> None:
        """In the order in which the parts depend on each other; `stop` undoes it backwards."""
        slots = slots_of(self._config)
        sockets = ListeningSockets([listener.bind for listener in self._config.listeners], slots)
        self._stops.append(_plain(sockets.close))
        self.addresses = sockets.addresses
        metrics = Metrics(self._run.cells("supervisor"))
        redis = Redis(redis_url(self._config.stores))
        self._stops.append(lambda _: _close(redis))
        background = Background()
        self._stops.append(lambda _: background.stop())
        await self._start_admin(self._watch(metrics, redis, background))
        steward = Steward(self._config.usage, redis=redis, clock=Clock(), metrics=metrics)
        self._stops.append(lambda deadline: steward.stop(min(deadline, FLUSH_SECONDS)))
        await steward.start()
        self._edges = [EdgeProcess(slot, sockets.of(slot), self._command(slot, sockets)) for slot in range(slots)]
        self._stops.append(lambda deadline: self._drain(sockets, deadline))
        await self._start_edges()

    async def _start_edges(self) -> None:
        outcomes = await asyncio.gather(*[edge.child.start() for edge in self._edges], return_exceptions=True)
        for edge, outcome in zip(self._edges, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                raise StartFailed(edge.failure) if edge.failure else outcome

    async def _start_admin(self, exposition: Exposition) -> None:
        admin = Admin(
            self._config.admin,
            exposition=exposition,
            readiness=self.readiness,
            routes=describe_routes(self._config),
        )
        self._stops.append(lambda _: admin.stop())
        try:
            await admin.start()
        except OSError as error:
            raise cannot_listen(self._config.admin.bind, error) from error
        self.admin_address = written(admin.bound)

    async def _drain(self, sockets: ListeningSockets, deadline_seconds: float) -> None:
        drains = asyncio.gather(*[edge.drain(deadline_seconds) for edge in self._edges])
        await asyncio.sleep(0)  # now none of them is started again
        sockets.close()  # as long as we hold them, connections would be queued that nobody accepts
        await drains

    def _watch(self, metrics: Metrics, redis: Redis, background: Background) -> Exposition:
        """Begins to measure; what was measured, here and in all processes."""
        clock = Clock()
        postgres = _known_postgres(self._config)
        self._health = StoreHealth(redis, postgres, self._config.usage.shards, metrics=metrics, clock=clock)
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

        return Exposition(sources)

    def _command(self, slot: int, sockets: ListeningSockets) -> Callable[[int], list[str]]:
        listening = ",".join(str(sock.fileno()) for sock in sockets.of(slot))
        metrics = str(self._run.cells(f"edge-{slot}"))

        def command(control: int) -> list[str]:
            arguments = {
                "--config": str(self._path),
                "--slot": str(slot),
                "--control-fd": str(control),
                "--listen-fds": listening,
                "--metrics": metrics,
            }
            return [*self._program, "edge-process", *(word for item in arguments.items() for word in item)]

        return command


async def run_edge(config: GatewayConfig, path: Path, program: Sequence[str] = PROGRAM) -> None:
    """`tallygate edge`: a supervisor and its edge processes, until SIGTERM or Ctrl-C. Raises StartFailed."""
    with run_directory() as run:
        supervisor = Supervisor(config, path, run, program=program)
        async with Interruption() as interruption:
            if await interruption.unless_asked(supervisor.start()):
                _log.info("serving on %s, admin on %s", ", ".join(supervisor.addresses), supervisor.admin_address)
                await interruption.wait()
            await interruption.unless_urgent(supervisor.stop(config.drain_timeout), supervisor.kill)


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
