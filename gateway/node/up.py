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
from socket import AF_INET, AF_INET6, create_server, socket
from typing import Final
from urllib.parse import urlsplit

from gateway import keys
from gateway.child import Child, ChildFailed, Launch
from gateway.clock import Clock
from gateway.config.configuration import GatewayConfig
from gateway.config.snapshot import Snapshot
from gateway.downstream.listener import parse_bind
from gateway.embedded import EmbeddedError, EmbeddedPostgres, EmbeddedValkey
from gateway.embedded.home import answers
from gateway.node.edge_process import FLUSH_SECONDS
from gateway.node.interruption import Interruption
from gateway.node.processes import PROGRAM, StartFailed, Supervisor, run_directory
from gateway.node.run_directory import RunDirectory
from gateway.stores.address import postgres_url
from gateway.stores.store import EMBEDDED
from gateway.tls.certificate import Unusable
from gateway.tls.server import make_server_context

DEMO_KEY: Final = "tg_test_DemoDemoDemoDemoDemoDemoDemoDemo1vk0aW"
"""The key of the running example's consumer, known to all the world."""

DEMO_UPSTREAM: Final = "demo"
_HEALTH: Final = b"GET /health HTTP/1.0\r\n\r\n"
_CHECKOUT: Final = Path(__file__).parents[2]
"""Where this program comes from; beside it is the demo, unless it was installed without."""


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
        self._closing = contextlib.AsyncExitStack()
        self._demo = _demo(self._closing.enter_context(_demo_socket(config))) if demo else None
        self._snapshot = Snapshot(config.source)
        self._workers = [self._worker(number) for number in range(config.billing.workers)]
        self._control = self._control_plane() if config.control.enabled else None
        optional = [child for child in (self._demo, self._control) if child is not None]
        self._companions = [*optional, *self._workers]
        self.supervisor = Supervisor(config, path, run, companions=self._companions, program=program)
        self._closing.callback(self._snapshot.close)

    async def start(self) -> None:
        """Starts everything; requests are served and billed afterwards. Raises StartFailed."""
        try:
            self._check_control_plane()
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
            ("gateway", "  ".join(self._urls())),
            ("admin", f"http://{_reachable(self.supervisor.admin_address)}  a page; /ready /metrics /routes"),
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
            scheme = "http" if options.tls is None else "https"
            yield "control", f"{scheme}://{_reachable(options.bind)}  bootstrap token in {options.token_file}"

    def _urls(self) -> list[str]:
        """Where clients find it, for each listener."""
        listening = zip(self._config.listeners, self.supervisor.addresses, strict=True)
        return [f"http{'s' if options.tls else ''}://{_reachable(address)}" for options, address in listening]

    def _things_to_try(self) -> Iterator[tuple[str, str]]:
        digest = keys.digest(DEMO_KEY).hex()
        for consumer in self._config.consumers:
            if any(key.sha256 == digest for key in consumer.keys):
                yield "demo key", DEMO_KEY
                yield "try", f"curl -H 'x-api-key: {DEMO_KEY}' {self._urls()[0]}/json"
                command = f"{_program()} usage {consumer.organization} --config {self._path}"
                yield "then", f"cd {Path.cwd()} && {command}"  # where `var/` is

    def _check_control_plane(self) -> None:
        """Its process would find that out too, but after everything before it was started. Raises StartFailed."""
        tls = self._config.control.tls
        if self._control is not None and tls is not None:
            try:
                make_server_context(tls, Clock())
            except Unusable as error:
                raise StartFailed(f"the control plane cannot serve HTTPS: {error}") from error

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
        options = self._config.control
        host, port = parse_bind(options.bind)
        # Over TLS it may answer nobody who shows no certificate: that it takes connections has to be enough.
        said = (_HEALTH, b"HTTP/1.") if options.tls is None else (b"", b"")
        return self._service("control", "control", ready=(lambda: answers(port, *said, host)) if port else None)

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


def _demo_socket(config: GatewayConfig) -> socket:
    """Listens where the upstream `demo` is expected: nobody else can then be taken for it. Raises StartFailed."""
    upstream = config.upstreams.get(DEMO_UPSTREAM)
    if upstream is None:
        raise StartFailed(f"the configuration has no upstream `{DEMO_UPSTREAM}` that the demo could be")
    if not (_CHECKOUT / "demo").is_dir():
        raise StartFailed("the demo is in the source of Tallygate and not installed with it: run `bin/up` there")
    url = upstream.targets[0].url
    target = urlsplit(url)
    host, port = target.hostname or "127.0.0.1", target.port or 80
    try:
        return create_server((host, port), family=AF_INET6 if ":" in host else AF_INET)
    except OSError as error:
        raise StartFailed(f"the demo cannot listen on {url}, the first target of `demo`: {error.strerror}") from error


def _demo(listening: socket) -> Child:
    number = listening.fileno()
    host, port = listening.getsockname()[:2]

    def launch() -> Launch:
        command = [sys.executable, "-m", "demo", "--listen-fd", str(number)]
        return Launch(command, directory=_CHECKOUT, descriptors=(number,), dies_with_us=signal.SIGTERM)

    async def ready() -> None:
        await answers(port, b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.", host)

    return Child("demo", launch, ready=ready)


def _program() -> str:
    """How to call this program in another terminal, where it may not be on the PATH."""
    program = Path(sys.executable).with_name("tallygate")
    if not program.exists():
        return "tallygate"
    return str(program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program)


def _reachable(address: str) -> str:
    """An address to connect to, where listening on all of them is written as none."""
    return address.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:")
