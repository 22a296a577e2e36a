"""Names in the configuration that must exist, or must exist once: what no single block of options can know.

These checks read the source, not the finished options, so that they speak up even while something else is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.config.source import Source, Steps
from gateway.config.wording import did_you_mean
from gateway.downstream.listener import parse_bind
from gateway.path import path_pattern


def check_names(source: Source) -> None:
    """Add a fault to the source for each name that is unknown or taken."""
    for route in _items(source, ("routes",)):
        arms = _items(source, (*route, "split"))
        for named in (route, *arms, (*route, "mirror"), (*route, "fallback")):
            check_upstream(source, (*named, "upstream"))
    _paths_are_patterns(source)
    _matches_differ(source)
    _once(source, ((*route, "name") for route in _items(source, ("routes",))), "name")
    _once(source, ((*consumer, "name") for consumer in _items(source, ("consumers",))), "name")
    _roles_exist(source)
    keys = [_items(source, (*consumer, "keys")) for consumer in _items(source, ("consumers",))]
    for own in keys:
        _once(source, ((*key, "id") for key in own), "id")
    _once(source, ((*key, "sha256") for own in keys for key in own), "key")
    _binds_differ(source)


def _items(source: Source, steps: Steps) -> list[Steps]:
    value = source.at(steps)
    return [(*steps, index) for index in range(len(value))] if isinstance(value, list) else []


def check_upstream(source: Source, steps: Steps) -> None:
    """Add a fault if what stands there is not the name of an upstream."""
    upstreams = source.at(("upstreams",))
    known = list(upstreams) if isinstance(upstreams, dict) else []
    name = source.at(steps)
    if isinstance(name, str) and name not in known:
        shown = source.shown(steps)
        source.fault(steps, f'unknown upstream "{shown}"{did_you_mean(shown, known)}')


def _roles_exist(source: Source) -> None:
    roles = source.at(("roles",))
    known = list(roles) if isinstance(roles, dict) else []
    for consumer in _items(source, ("consumers",)):
        for steps in _items(source, (*consumer, "roles")):
            if isinstance(role := source.at(steps), str) and role not in known:
                shown = source.shown(steps)
                source.fault(steps, f'unknown role "{shown}"{did_you_mean(shown, known)}')


def _paths_are_patterns(source: Source) -> None:
    for route in _items(source, ("routes",)):
        steps = (*route, "match", "path")
        path = source.at(steps)
        if isinstance(path, str):
            try:
                path_pattern(path)
            except ValueError as error:
                hidden = source.written.get(steps)
                source.fault(steps, f"not a path: {hidden or error}")


def _matches_differ(source: Source) -> None:
    """Of two routes with the very same match the later one would never be reached."""
    first: dict[str, Steps] = {}
    for route in _items(source, ("routes",)):
        match = source.at((*route, "match"))
        conditions = repr(sorted({"path": "/*", **(match if isinstance(match, dict) else {})}.items()))
        earlier = first.setdefault(conditions, route)
        if earlier is not route:
            source.fault(route, f"matches what an earlier route takes ({_where(source, earlier)})")


def _once(source: Source, places: Iterable[Steps], what: str) -> None:
    first: dict[str, Steps] = {}
    for steps in places:
        value = source.at(steps)
        if isinstance(value, str):
            earlier = first.setdefault(value.lower() if what == "key" else value, steps)
            if earlier is not steps:
                source.fault(steps, f'{what} "{source.shown(steps)}" is taken ({_where(source, earlier)})')


def _binds_differ(source: Source) -> None:
    """Two listeners cannot share a port unless each has an address of its own."""
    taken: list[tuple[str, int, Steps]] = []
    for steps in [*((*listener, "bind") for listener in _items(source, ("listeners",))), ("admin", "bind")]:
        try:
            host, port = parse_bind(str(source.at(steps)))
        except ValueError:
            continue  # its own block says so
        for other, used, earlier in taken:
            if port == used and port and (host == other or {host, other} & {"0.0.0.0", "::"}):  # noqa: S104
                source.fault(steps, f"port {port} is taken ({_where(source, earlier)})")
                break
        taken.append((host, port, steps))


def _where(source: Source, steps: Steps) -> str:
    place = source.place(steps)
    return f"first in {place.file}:{place.line}"
