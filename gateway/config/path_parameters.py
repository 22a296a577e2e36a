"""Path parameters: what plugins say about parts of a path, in templates and conditions, and whether it has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from gateway.config.plugin_loader import PluginSpec
from gateway.config.source import Source, Steps
from gateway.config.wording import did_you_mean
from gateway.parameters import parameters_in
from gateway.path import path_pattern
from gateway.route import RouteOptions


def check_parameters(
    source: Source, routes: Sequence[RouteOptions], top: Iterable[PluginSpec], own: Iterable[Iterable[PluginSpec]]
) -> None:
    """Add a fault for each parameter that the path of a plugin's route does not have; for a plugin of the `top` level,
    if the path of no route has it. Of such a one nothing could ever be known.
    """
    try:
        paths = [_named(route.match.path) for route in routes]
    except ValueError:
        return  # of a path that is none, that alone is said
    for names, specs in zip(paths, own, strict=True):
        _check(source, names, specs, "the path of this route has no")
    _check(source, [name for names in paths for name in names], top, "the path of no route has a")


def _check(source: Source, names: Sequence[str], specs: Iterable[PluginSpec], complaint: str) -> None:
    for steps, name in _spoken_of(specs):
        if name not in names:
            hidden = source.written.get(steps)  # a name that came from elsewhere may be anything
            source.fault(steps, f"{complaint} {{{hidden or name}}}{'' if hidden else did_you_mean(name, names)}")


def _spoken_of(specs: Iterable[PluginSpec]) -> Iterator[tuple[Steps, str]]:
    for spec in specs:
        yield from (((*spec.steps, *way), name) for way, name in parameters_in(spec.config))
        yield from _spoken_of(spec.parts)


def _named(path: str) -> list[str]:
    """Raises ValueError for what is no path."""
    return [segment[1:-1] for segment in path_pattern(path)[0] if segment[:1] == "{"]
