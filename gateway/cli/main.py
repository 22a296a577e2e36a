"""The `tallygate` command: reads the command line, calls what does the work, turns the outcome into an exit code.

0: done. 1: done, and the answer is no, or it could not be done. 2: the command line or the configuration is wrong.
"""

from __future__ import annotations

import os
import signal
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, Final, TypeVar

from gateway import __version__, log
from gateway.billing import report, worker
from gateway.billing.database import DatabaseUnavailable, Retry
from gateway.billing.rebook import rebook
from gateway.billing.reconcile import reconcile
from gateway.cli import audit, control, edge_process, explain
from gateway.cli.admin_client import AdminUnreachable
from gateway.cli.config import add_commands, takes_config
from gateway.cli.control_client import ControlRefused
from gateway.cli.credentials import add_credentials
from gateway.cli.process import run_service, run_to_end, takes_place
from gateway.clock import Clock
from gateway.config import reference
from gateway.config.composition import ConfigError, load
from gateway.metering.directory import JournalUnusable
from gateway.migration import MigrationRefused, migrate
from gateway.node.processes import StartFailed, run_edge
from gateway.node.up import run_up
from gateway.stores.address import postgres_url
from gateway.stores.store import StoreUnavailable

T = TypeVar("T")

_CANNOT: Final = (
    StartFailed,
    StoreUnavailable,
    DatabaseUnavailable,
    Retry,
    MigrationRefused,
    JournalUnusable,
    AdminUnreachable,
    ControlRefused,
)
"""What the outside world may have against a command; each says why in one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Raises SystemExit for a command line that makes no sense."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except _CANNOT as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader has seen enough; keep the interpreter's last flush from saying so
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="tallygate", description="The API gateway that bills.")
    commands = parser.add_subparsers(metavar="command", required=True)
    _add_services(commands)
    _add_books(commands)

    add_commands(commands)
    control.add_commands(commands)
    audit.add_command(commands)
    explain.add_command(commands)

    add_credentials(commands)

    options = commands.add_parser("reference", help="write the reference of all options and the editor's schema")
    options.add_argument("--directory", type=Path, default=Path("config"), help="where they stand (default: config)")
    options.add_argument("--check", action="store_true", help="write nothing; exit 1 if they are out of date")
    options.set_defaults(run=_reference)

    commands.add_parser("version", help="print the version").set_defaults(run=_version)
    return parser


def _add_services(commands: Any) -> None:
    up = commands.add_parser("up", help="run everything on this machine: stores, workers and the gateway")
    takes_config(up)
    up.add_argument("--demo", action="store_true", help="and a demo upstream in place of the upstream `demo`")
    up.add_argument("--forgetful", action="store_true", help="the embedded Valkey keeps nothing on disk")
    up.set_defaults(run=_up)

    edge = commands.add_parser("edge", help="run the gateway: a supervisor and its edge processes")
    takes_config(edge)
    edge.set_defaults(run=_edge)

    edge_process.add_command(commands)

    work = commands.add_parser("worker", help="run a billing worker")
    takes_config(work)
    takes_place(work)
    work.set_defaults(run=_worker)


def _add_books(commands: Any) -> None:
    schema = commands.add_parser("migrate", help="bring the schema of PostgreSQL up to date")
    takes_config(schema)
    schema.set_defaults(run=_migrate)

    usage = commands.add_parser("usage", help="print what an organization has used")
    takes_config(usage)
    usage.add_argument("organization")
    usage.add_argument("--by", choices=["day", "route", "key"], default="day", help="what a line stands for")
    usage.add_argument("--from", dest="first", type=_day, help="the first UTC day, such as 2026-01-31")
    usage.add_argument("--to", dest="last", type=_day, help="the last UTC day")
    usage.set_defaults(run=_usage)

    books = commands.add_parser("reconcile", help="compare journal, streams and books; exit 1 if there is a gap")
    takes_config(books)
    books.set_defaults(run=_reconcile)

    again = commands.add_parser("rebook", help="book what was set aside and can be booked by now")
    takes_config(again)
    again.set_defaults(run=_rebook)


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"not a day: {text!r} (write 2026-01-31)") from None


def _reference(options: Namespace) -> int:
    if options.check:
        names = reference.outdated(options.directory)
        for name in names:
            print(f"{options.directory / name}: out of date, run `tallygate reference`", file=sys.stderr)
        return 1 if names else 0
    try:
        reference.write(options.directory)
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _version(_: Namespace) -> int:
    print(f"tallygate {__version__}")
    return 0


def _up(options: Namespace) -> int:
    config = load(options.config, os.environ, serving=True)
    handler = log.configure()
    work = run_up(
        config, options.config, demo=options.demo, migrate=migrate, announce=_say, persistent=not options.forgetful
    )
    try:
        run_to_end(work)
    finally:
        handler.close()
    return 0


def _edge(options: Namespace) -> int:
    config = load(options.config, os.environ, serving=True)
    handler = log.configure()
    try:
        run_to_end(run_edge(config, options.config))
    finally:
        handler.close()
    return 0


def _worker(options: Namespace) -> int:
    return run_service(options, "worker", worker.run)


def _migrate(options: Namespace) -> int:
    names = run_to_end(migrate(postgres_url(load(options.config, os.environ).stores)))
    for name in names:
        print(f"applied {name}")
    if not names:
        print("the schema is up to date")
    return 0


def _usage(options: Namespace) -> int:
    if options.first and options.last and options.first > options.last:
        print(f"--from {options.first} is later than --to {options.last}", file=sys.stderr)
        return 2
    config = load(options.config, os.environ)
    for line in run_to_end(report.usage(config, options.organization, options.by, options.first, options.last)):
        print(line)
    return 0


def _reconcile(options: Namespace) -> int:
    findings = run_to_end(reconcile(load(options.config, os.environ), Clock()))
    for line in findings.lines():
        print(line)
    return 1 if findings.gaps else 0


def _rebook(options: Namespace) -> int:
    for line in run_to_end(rebook(load(options.config, os.environ), Clock())):
        print(line)
    return 0


def _say(text: str) -> None:
    print(text, flush=True)
