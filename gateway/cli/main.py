"""The `tallygate` command: reads the command line, calls what does the work, turns the outcome into an exit code.

0: done. 1: done, and the answer is no, or it could not be done. 2: the command line or the configuration is wrong.
"""

from __future__ import annotations

import os
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Final

from gateway.config.source import ConfigError
from gateway.trouble import Trouble

_HOMES: Final = {
    "services": ("up", "edge", "worker"),
    "edge_process": ("edge-process",),
    "books": ("migrate", "usage", "reconcile", "rebook"),
    "config": ("check", "reload"),
    "control": (
        "control",
        "org",
        "department",
        "team",
        "user",
        "service-account",
        "membership",
        "role",
        "key",
        "subscription",
        "revocation",
    ),
    "audit": ("audit",),
    "explain": ("explain",),
    "credentials": ("keys", "passwords"),
    "reference": ("reference",),
    "version": ("version",),
}
"""Where each command is at home, in the order of `--help`. Only the module of the command that runs is loaded: what the
others need takes a second.
"""


class _Parser(ArgumentParser):
    """Shows the usage of the command that something is wrong with, and not only that of `tallygate`."""

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code. Raises SystemExit for a command line that makes no sense."""
    return perform(options_of(arguments))


def options_of(arguments: Sequence[str]) -> Namespace:
    """What a command line asks for, its command ready to run. Raises SystemExit for one that makes no sense."""
    parser = _Parser(prog="tallygate", description="The API gateway that bills.")
    commands = parser.add_subparsers(metavar="command", required=True)
    for home in _homes(arguments):
        import_module(f"gateway.cli.{home}").add_commands(commands)
    return parser.parse_args(arguments)


def perform(options: Namespace) -> int:
    """Run the command that was asked for; returns its exit code."""
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except Trouble as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader has seen enough; keep the interpreter's last flush from saying so
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _homes(arguments: Sequence[str]) -> Iterable[str]:
    """The module of the command that is asked for; all of them where there is none such."""
    asked = next(iter(arguments), "")
    return [home for home, commands in _HOMES.items() if asked in commands] or _HOMES
