"""The command that writes the reference of all options."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from gateway.config import reference


def add_commands(commands: Any) -> None:
    """`tallygate reference`."""
    options = commands.add_parser("reference", help="write the reference of all options and the editor's schema")
    options.add_argument("--directory", type=Path, default=Path("config"), help="where they stand (default: config)")
    options.add_argument("--check", action="store_true", help="write nothing; exit 1 if they are out of date")
    options.set_defaults(run=_reference)


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
