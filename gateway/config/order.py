"""Order: in which order the plugins of a route run, and what they need of each other."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.config.plugin_loader import PluginSpec
from gateway.config.source import Source


def in_order(specs: Iterable[PluginSpec]) -> list[PluginSpec]:
    """As listed, but each plugin behind the last one that guards what it must be `behind` or `needs`."""
    listed = list(enumerate(specs))
    last = {spec.plugin.guards: place for place, spec in listed if spec.plugin.guards}

    def turn(item: tuple[int, PluginSpec]) -> tuple[int, bool]:
        place, spec = item
        guard = last.get(spec.plugin.needs or spec.plugin.behind, place)
        return max(place, guard), guard > place

    return [spec for _, spec in sorted(listed, key=turn)]


def check_needs(source: Source, chains: Iterable[list[PluginSpec]]) -> None:
    """Add a fault for each plugin that stands where nothing guards what it needs."""
    for chain in chains:
        guarded: set[str] = set()
        for spec in chain:
            if spec.plugin.needs and spec.plugin.needs not in guarded:
                source.fault(spec.steps, f"needs {spec.plugin.needs}, and no plugin of this route does that")
            guarded.add(spec.plugin.guards)
