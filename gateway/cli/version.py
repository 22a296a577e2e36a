"""The command that says which version this is."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from gateway import __version__


def add_commands(commands: Any) -> None:
    """`tallygate version`."""
    commands.add_parser("version", help="print the version").set_defaults(run=_version)


def _version(_: Namespace) -> int:
    print(f"tallygate {__version__}")
    return 0
