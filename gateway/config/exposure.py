"""Exposure: listeners without TLS on which callers are asked for what anybody on the way could read and use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from gateway.config.plugin_loader import PluginSpec
from gateway.config.source import Source
from gateway.downstream.listener import ListenerOptions, is_local

if TYPE_CHECKING:
    from gateway.control.options import ControlOptions

_NAMED: Final = 3
"""Routes that a warning names; the others are counted."""


def exposed(
    source: Source, listeners: Sequence[ListenerOptions], chains: Mapping[str, Sequence[PluginSpec]]
) -> list[str]:
    """A warning for each listener that can be reached from elsewhere without TLS while routes ask for secrets.

    `chains` are the plugins of each route. Where the configuration names proxies in front, TLS is taken to end there.
    """
    asking: dict[str, list[str]] = {}
    for route, chain in chains.items():
        for name in dict.fromkeys(_asking(chain)):
            asking.setdefault(name, []).append(route)
    if not asking or source.at(("trusted_proxies",)):
        return []
    who = ", ".join(f"{name} ({_routes(routes)})" for name, routes in asking.items())
    text = f"whoever listens in can use what callers show to {who}: give it `tls`, or name `trusted_proxies` that do"
    open_ = [place for place, listener in enumerate(listeners) if not (_is_secure(listener) or is_local(listener.bind))]
    return [source.located(("listeners", place, "bind"), f"this listener has no TLS, {text}") for place in open_]


def control_exposed(source: Source, control: ControlOptions) -> list[str]:
    """A warning if the tokens of the control plane cross a network that anybody may listen to."""
    if control.tls is not None or is_local(control.bind):
        return []
    text = f"the control plane on {control.bind} has no `tls`: tokens and secrets can be read on the way to it"
    return [source.located(("control", "bind"), text)]


def _asking(chain: Sequence[PluginSpec]) -> Iterator[str]:
    for spec in chain:
        if spec.plugin.asks_for_secrets:
            yield spec.name
        yield from _asking(spec.parts)


def _routes(names: list[str]) -> str:
    more = len(names) - _NAMED
    listed = ", ".join(names[:_NAMED])
    return f"route{'s' if len(names) > 1 else ''} {listed}{f' and {more} more' if more > 0 else ''}"


def _is_secure(listener: ListenerOptions) -> bool:
    return listener.tls is not None or listener.https_port is not None
