"""The commands that keep the books: their schema, what was used, what is missing, what was set aside."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentTypeError, Namespace
from datetime import date
from typing import Any

from gateway.billing import report
from gateway.billing.rebook import rebook
from gateway.billing.reconcile import reconcile
from gateway.cli.config import takes_config
from gateway.cli.process import run_to_end
from gateway.clock import Clock
from gateway.config.composition import load
from gateway.migration import migrate
from gateway.stores.address import postgres_url


def add_commands(commands: Any) -> None:
    """`tallygate migrate`, `usage`, `reconcile` and `rebook`."""
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
