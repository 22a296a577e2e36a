"""The `tallygate` command: reads the command line, calls what does the work, turns the outcome into an exit code.

0: done. 1: done, and the answer is no, or it could not be done. 2: the command line or the configuration is wrong.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from gateway import __version__, keys, reference
from gateway.chain import overridden_hooks
from gateway.config import ConfigError, GatewayConfig, load
from gateway.route import MatchOptions


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Raises SystemExit for a command line that makes no sense."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader has seen enough; keep the interpreter's last flush from saying so
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="tallygate", description="The API gateway that bills.")
    commands = parser.add_subparsers(metavar="command", required=True)

    check = commands.add_parser("check", help="check the configuration and show what it does")
    _takes_config(check)
    check.set_defaults(run=_check)

    new_keys = commands.add_parser("keys", help="API keys").add_subparsers(metavar="command", required=True)
    new = new_keys.add_parser("new", help="make a key; prints it and its SHA-256, and keeps neither")
    mode = new.add_mutually_exclusive_group()
    mode.add_argument("--live", dest="mode", action="store_const", const="live", help="for production (the default)")
    mode.add_argument("--test", dest="mode", action="store_const", const="test", help="for trying things out")
    new.set_defaults(run=_new_key, mode="live")

    options = commands.add_parser("reference", help="write the reference of all options and the editor's schema")
    options.add_argument("--directory", type=Path, default=Path("config"), help="where they stand (default: config)")
    options.add_argument("--check", action="store_true", help="write nothing; exit 1 if they are out of date")
    options.set_defaults(run=_reference)

    commands.add_parser("version", help="print the version").set_defaults(run=_version)
    return parser


def _takes_config(parser: ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, default=Path("gateway.yaml"), help="default: gateway.yaml")


def _check(options: Namespace) -> int:
    config = load(options.config, os.environ)
    counts = (
        _count(len(config.routes), "route"),
        _count(len(config.upstreams), "upstream"),
        _count(len(config.listeners), "listener"),
    )
    print(f"{options.config}: valid, {', '.join(counts)}")
    for line in _walks(config):
        print(line)
    return 0


def _walks(config: GatewayConfig) -> Iterator[str]:
    """What each route takes, what a request then walks through, and where it ends."""
    for route in config.routes:
        yield ""
        yield f"{route.name}: {_condition(route.match)}"
        specs = config.plugins_of(route)
        width = max((len(spec.name) for spec in specs), default=0)
        for spec in specs:
            yield f"  {spec.name:{width}}  {', '.join(overridden_hooks(spec.plugin)) or 'no hooks'}"
        targets = ", ".join(target.url for target in config.upstreams[route.upstream].targets)
        yield f"  → {route.upstream} ({targets})"


def _condition(match: MatchOptions) -> str:
    methods = "|".join(match.methods) if match.methods else "any method"
    headers = "".join(f" {name}={value}" for name, value in match.headers.items())
    return f"{methods} {match.host or ''}{match.path}{headers}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _new_key(options: Namespace) -> int:
    key = keys.new_key(options.mode)
    print(f"key     {key}")
    print(f"sha256  {keys.digest(key).hex()}")
    print(
        "The key is not kept anywhere: give it to its owner now. The SHA-256 goes under `consumers`.", file=sys.stderr
    )
    return 0


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
