"""The commands about the configuration: what it does, what a change of it would do, and doing it."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from gateway.cli.admin_client import AdminUnreachable, ask
from gateway.config.composition import load
from gateway.config.configuration import GatewayConfig
from gateway.config.description import Description, describe
from gateway.config.diff import differences
from gateway.downstream.listener import parse_bind
from gateway.options import write_rate
from gateway.plugin import AUTHENTICATION, METERING
from gateway.route import MatchOptions, RouteOptions

RUNNING: Final = "running"


def add_commands(commands: Any) -> None:
    """`tallygate check` and `tallygate reload`."""
    checking = commands.add_parser("check", help="check the configuration and show what it does")
    takes_config(checking)
    checking.add_argument(
        "--diff",
        metavar="running|FILE",
        help="show what differs from the configuration that is served, or from another file; exit 1 if protection goes",
    )
    takes_admin(checking)
    checking.set_defaults(run=check)

    reloading = commands.add_parser("reload", help="have the running gateway take the configuration as it stands")
    takes_config(reloading)
    takes_admin(reloading)
    reloading.set_defaults(run=reload)


def takes_config(parser: ArgumentParser) -> None:
    """`--config`, as most commands have it."""
    parser.add_argument("--config", type=Path, default=Path("gateway.yaml"), help="default: gateway.yaml")


def takes_admin(parser: ArgumentParser) -> None:
    """`--admin`, as the commands have it that ask a running gateway."""
    parser.add_argument(
        "--admin", metavar="ADDRESS", type=_address, help="the admin listener (default: what the configuration says)"
    )


def _address(text: str) -> str:
    try:
        parse_bind(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None
    return text


def check(options: Namespace) -> int:
    """Prints what the configuration does, or what differs. 1 if something that protects a route or a limit is gone."""
    config = load(options.config, os.environ, serving=True, controlling=True)
    counts = (
        _count(len(config.routes), "route"),
        _count(len(config.upstreams), "upstream"),
        _count(len(config.listeners), "listener"),
    )
    print(f"{options.config}: valid, {', '.join(counts)}")
    for warning in config.warnings:
        print(f"warning: {warning}")
    if options.diff is not None:
        return _show_differences(_other(options, config), describe(config))
    for line in _walks(config):
        print(line)
    return 0


def reload(options: Namespace) -> int:
    """Asks the running gateway to reload, and prints what has changed. 2 if it refuses the configuration."""
    config = load(options.config, os.environ)
    status, document = ask(options.admin or config.admin.bind, "POST", "/reload")
    if status == 200:
        print("\n".join(document["changes"]) or "nothing has changed")
        return 0
    print("\n".join(document.get("errors") or [document.get("title", f"status {status}")]), file=sys.stderr)
    return 2 if status == 422 else 1


def _other(options: Namespace, config: GatewayConfig) -> Description:
    """What the configuration is compared with. Raises ConfigError and AdminUnreachable."""
    if options.diff != RUNNING:
        return describe(load(options.diff, os.environ))
    bind = options.admin or config.admin.bind
    status, document = ask(bind, "GET", "/configuration")
    if status != 200:
        raise AdminUnreachable(f"the gateway on {bind} does not say what it serves")
    description: Description = document["configuration"]
    return description


def _show_differences(before: Description, after: Description) -> int:
    found = differences(before, after)
    print("\n".join(map(str, found)) or "no difference")
    flagged = sum(difference.flagged for difference in found)
    if flagged:
        print(f"\n! {_count(flagged, 'change')} of these {'take' if flagged > 1 else 'takes'} protection away.")
    return 1 if flagged else 0


def _walks(config: GatewayConfig) -> Iterator[str]:
    """What each route takes, what a request then walks through, and where it ends."""
    for route in config.routes:
        yield ""
        yield f"{route.name}: {_condition(route.match)}"
        specs = config.plugins_of(route)
        width = max((len(spec.name) for spec in specs), default=0)
        for spec in specs:
            yield f"  {spec.name:{width}}  {', '.join(spec.plugin.hooks(spec.config)) or 'no hooks'}"
            yield from (f"    {part.name}" for part in spec.parts)
        guards = {spec.plugin.guards for spec in specs}
        if METERING in guards and AUTHENTICATION not in guards:
            yield "  ! nothing is billed here: no plugin of this route says who calls"
        yield from _ends(config, route)


def _ends(config: GatewayConfig, route: RouteOptions) -> Iterator[str]:
    def described(name: str) -> str:
        return f"{name} ({', '.join(target.url for target in config.upstreams[name].targets)})"

    whole = sum(route.shares.values())
    for name, weight in route.shares.items():
        share = f"{write_rate(weight / whole)} to " if route.split else ""
        yield f"  → {share}{described(name)}"
    if not whole:
        yield "  → no upstream: a plugin answers"
    if route.fallback is not None:
        reply, other = route.fallback.reply, route.fallback.upstream
        yield f"  else {described(other) if other is not None else ''}{f'a reply of {reply.status}' if reply else ''}"
    if route.mirror is not None:
        yield f"  and a copy of {write_rate(route.mirror.share)} to {described(route.mirror.upstream)}"


def _condition(match: MatchOptions) -> str:
    methods = "|".join(match.methods) if match.methods else "any method"
    headers = "".join(f" {name}={value}" for name, value in match.headers.items())
    return f"{methods} {match.host or ''}{match.path}{headers}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
