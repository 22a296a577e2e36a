"""Up: everything on one machine with one command: stores, workers, the control plane, a demo, and the gateway.

Each is a process of its own, as in production, and each is started again when it dies. They are started in the order
in which they need each other and stopped in the reverse one.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from gateway import keys
from gateway.child import Child, ChildFailed, Launch
from gateway.config.configuration import GatewayConfig
from gateway.config.snapshot import Snapshot
from gateway.downstream.listener import parse_bind
from gateway.embedded import EmbeddedError, EmbeddedPostgres, EmbeddedValkey
from gateway.node.edge_process import FLUSH_SECONDS
from gateway.node.interruption import Interruption
from gateway.node.processes import PROGRAM, StartFailed, Supervisor, run_directory
from gateway.node.run_directory import RunDirectory
from gateway.stores.address import postgres_url
from gateway.stores.store import EMBEDDED

DEMO_KEY: Final = "tg_test_DemoDemoDemoDemoDemoDemoDemoDemo1vk0aW"
"""The key of the running example's consumer, known to all the world."""

DEMO_UPSTREAM: Final = "demo"


class Stack:
    """All that `tallygate up` runs. `start`, then `stop`, each once."""

    def __init__(
        self,
        config: GatewayConfig,
        path: Path,
        run: RunDirectory,
        *,
        demo: bool,
        migrate: Callable[[str], Awaitable[object]],
        persistent: bool = True,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        """`migrate` brings the database at a URL up to date. Without `persistent`, Valkey keeps nothing on disk."""
        self._config = config
        self._path = path
        self._migrate = migrate
        self._program = program
        self._run = run
        stores = config.stores
        directory = Path(stores.directory)
        self._valkey = EmbeddedValkey(directory, persistent=persistent) if stores.redis == EMBEDDED else None
        self._postgres = EmbeddedPostgres(directory) if stores.postgres == EMBEDDED else None
        self._demo = _demo(config) if demo else None
        self._snapshot = Snapshot(config.source)
        self._workers = [self._worker(number) for number in range(config.billing.workers)]
        self._control = self._control_plane() if config.control.enabled else None
        optional = [child for child in (self._demo, self._control) if child is not None]
        self._companions = [*optional, *self._workers]
        self.supervisor = Supervisor(config, path, run, companions=self._companions, program=program)
        self._closing = contextlib.AsyncExitStack()
        self._closing.callback(self._snapshot.close)

    async def start(self) -> None:
        """Starts everything; requests are served and billed afterwards. Raises StartFailed."""
        try:
            await self._start()
        except (EmbeddedError, ChildFailed) as error:
            await self.stop()
            raise StartFailed(str(error)) from error
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stops everything, in reverse order. Idempotent."""
        await self._closing.aclose()

    def kill(self) -> None:
        """Ends what serves and bills at once; `stop` then does not wait for it. The stores still end in order."""
        self.supervisor.kill()
        for child in self._companions:
            child.kill()

    def description(self) -> str:
        """Where everything is, and what to try, for a terminal."""
        rows = [
            ("gateway", "  ".join(f"http://{_reachable(address)}" for address in self.supervisor.addresses)),
            ("admin", f"http://{_reachable(self.supervisor.admin_address)}  /health /ready /metrics /routes"),
            *([("demo", self._config.upstreams[DEMO_UPSTREAM].targets[0].url)] if self._demo is not None else []),
            *self._where_control_is(),
            *([("Valkey", f"embedded; URL in {self._valkey.url_file}")] if self._valkey is not None else []),
            *([("PostgreSQL", f"embedded; URL in {self._postgres.url_file}")] if self._postgres is not None else []),
            *self._things_to_try(),
        ]
        width = max(len(name) for name, _ in rows)
        lines = "\n".join(f"  {name:{width}}  {text}" for name, text in rows)
        count = len(self.supervisor.children)
        return (
            f"Tallygate is up: {count} edge and {len(self._workers)} billing processes. Ctrl-C stops it.\n\n{lines}\n"
        )

    def _where_control_is(self) -> Iterator[tuple[str, str]]:
        if self._control is not None:
            options = self._config.control
            yield "control", f"http://{_reachable(options.bind)}  bootstrap token in {options.token_file}"

    def _things_to_try(self) -> Iterator[tuple[str, str]]:
        digest = keys.digest(DEMO_KEY).hex()
        for consumer in self._config.consumers:
            if any(key.sha256 == digest for key in consumer.keys):
                gateway = _reachable(self.supervisor.addresses[0])
                yield "demo key", DEMO_KEY
                yield "try", f"curl -H 'x-api-key: {DEMO_KEY}' http://{gateway}/json"
                yield "then", f"tallygate usage {consumer.organization} --config {self._path}"

    async def _start(self) -> None:
        servers = [server for server in (self._valkey, self._postgres) if server is not None]
        for server in servers:
            self._closing.push_async_callback(server.stop)
        starts = await asyncio.gather(*[server.start() for server in servers], return_exceptions=True)
        for outcome in starts:
            if isinstance(outcome, BaseException):
                raise outcome
        await self._migrate(postgres_url(self._config.stores))
        for child in self._companions:
            self._closing.push_async_callback(child.stop, FLUSH_SECONDS)
            await child.start()
        self._closing.push_async_callback(self._stop_supervisor)
        await self.supervisor.start()

    async def _stop_supervisor(self) -> None:
        await self.supervisor.stop(self.supervisor.config.drain_timeout)

    def _worker(self, number: int) -> Child:
        return self._service(f"worker-{number}", "worker")

    def _control_plane(self) -> Child:
        host, port = parse_bind(self._config.control.bind)
        return self._service("control", "control", ready=(lambda: _answers(host, port)) if port else None)

    def _service(self, name: str, command: str, ready: Callable[[], Awaitable[None]] | None = None) -> Child:
        """What it works by cannot change at a reload: it is always started with what was read first."""
        snapshot = self._snapshot.descriptor
        line = [*self._program, command, "--snapshot-fd", str(snapshot), "--metrics", str(self._run.cells(name))]
        return Child(name, lambda: Launch(line, descriptors=(snapshot,), dies_with_us=signal.SIGTERM), ready=ready)


async def run_up(
    config: GatewayConfig,
    path: Path,
    *,
    demo: bool,
    migrate: Callable[[str], Awaitable[object]],
    announce: Callable[[str], None],
    persistent: bool = True,
    program: Sequence[str] = PROGRAM,
) -> None:
    """`tallygate up`: runs everything until SIGTERM or Ctrl-C; `announce` is told when it runs. Raises StartFailed."""
    with run_directory() as run:
        stack = Stack(config, path, run, demo=demo, migrate=migrate, persistent=persistent, program=program)
        async with Interruption(stack.supervisor.reload_soon) as interruption:
            if await interruption.unless_asked(stack.start()):
                announce(stack.description())
                await interruption.wait()
            await interruption.unless_urgent(stack.stop(), stack.kill)


def _demo(config: GatewayConfig) -> Child:
    """The demo upstream, where the upstream of that name is expected."""
    upstream = config.upstreams.get(DEMO_UPSTREAM)
    if upstream is None:
        raise StartFailed(f"the configuration has no upstream `{DEMO_UPSTREAM}` that the demo could be")
    target = urlsplit(upstream.targets[0].url)
    host, port = target.hostname or "127.0.0.1", target.port or 80
    command = [sys.executable, "-m", "demo", "--host", host, "--port", str(port)]

    return Child("demo", lambda: Launch(command, dies_with_us=signal.SIGTERM), ready=lambda: _answers(host, port))


async def _answers(host: str, port: int) -> None:
    """Waits until somebody listens there."""
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
            await writer.wait_closed()
            return
        await asyncio.sleep(0.05)


def _reachable(address: str) -> str:
    """An address to connect to, where listening on all of them is written as none."""
    return address.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:")
