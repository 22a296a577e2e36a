"""Order: in which order the plugins of a route run, and what they need of each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gateway.authentication import Authenticator
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


def check_answers(source: Source, top: Sequence[PluginSpec], own: Iterable[Sequence[PluginSpec]]) -> None:
    """Add a fault for each route that names no upstream though none of its plugins answers by itself; nothing is said
    of one in which something else is wrong.
    """
    for index, specs in enumerate(own):
        steps = ("routes", index)
        route = source.at(steps)
        wrong = any(fault.steps[:2] == steps or fault.steps[:1] == ("plugins",) for fault in source.faults)
        if wrong or not isinstance(route, dict) or route.get("upstream") is not None or "split" in route:
            continue
        if not any(spec.plugin.answers for spec in (*top, *specs)):
            hint = "write one of `upstream` and `split`, or a plugin that answers by itself, such as `reply`"
            source.fault(steps, f"a route goes to one upstream or to several: {hint}")


def check_authentication(source: Source, chains: Iterable[list[PluginSpec]]) -> None:
    """Add a fault for each authenticator that cannot find a credential behind another one, as both must."""
    for chain in chains:
        before: dict[str, PluginSpec] = {}  # by the scheme in which Authorization must say it
        for spec in chain:
            scheme = spec.plugin.in_authorization(spec.config) if issubclass(spec.plugin, Authenticator) else None
            if scheme is None:
                continue
            other = next((each for said, each in before.items() if said != scheme or not _leaves(each)), None)
            if other is not None:
                source.fault(
                    spec.steps,
                    f"no request gets past both {other.name} and this: what each wants of the one field Authorization"
                    " keeps the other from it (list them in `any_of` if either is enough)",
                )
            before[scheme] = spec


def _leaves(spec: PluginSpec) -> bool:
    return bool(getattr(spec.config, "forward", False))
