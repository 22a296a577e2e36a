"""The command that shows the audit log: what was changed in the control plane, and what the edge decided."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from itertools import chain, islice
from typing import Any, Final
from urllib.parse import quote

import msgspec

from gateway.cli.config import takes_config
from gateway.cli.control_client import ControlClient
from gateway.cli.tables import table_of
from gateway.config.composition import load

_COLUMNS: Final = {
    "changes": ("at", "actor", "organization", "kind", "name", "action", "request"),
    "decisions": ("last_at", "organization", "consumer", "route", "wanted", "allowed", "because", "times"),
}


def add_commands(commands: Any) -> None:
    """`tallygate audit`."""
    auditing: ArgumentParser = commands.add_parser(
        "audit", help="show the audit log of the control plane, newest first"
    )
    auditing.add_argument(
        "what", choices=list(_COLUMNS), help="what was changed there, or what was refused at the edge (and allowed)"
    )
    auditing.add_argument("--org", help="the organization (without: all of them)")
    auditing.add_argument("--limit", type=int, default=50, help="how many entries at most (default: 50)")
    auditing.add_argument("--json", action="store_true", help="print JSON")
    takes_config(auditing)
    auditing.set_defaults(run=_show)


def _show(options: Namespace) -> int:
    home = f"/v1/organizations/{quote(options.org, safe='')}/audit" if options.org is not None else "/v1/audit"
    client = ControlClient(load(options.config, os.environ).control, os.environ)
    pages = client.pages(home if options.what == "changes" else f"{home}/decisions")
    entries = list(islice(chain.from_iterable(pages), max(0, options.limit)))
    if options.json:
        print(msgspec.json.encode(entries).decode())
    elif entries:
        print("\n".join(table_of(entries, _COLUMNS[options.what])))
    else:
        print(f"no {options.what}")
    return 0
