"""Names in the configuration that must exist, or must exist once: what no single block of options can know.

These checks read the source, not the finished options, so that they speak up even while something else is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Final
from unicodedata import normalize

from gateway.config.source import Source, Steps
from gateway.config.wording import did_you_mean
from gateway.consumers import CERTIFICATE_FIELDS
from gateway.downstream.listener import parse_bind
from gateway.path import path_pattern

_SAME: Final[Mapping[str, Callable[[str], str]]] = {
    "key": str.lower,
    "dns": str.lower,
    "fingerprint": lambda value: value.replace(":", "").lower(),
    "user": lambda value: normalize("NFC", value),
}
"""Of what may be written in several ways: the one way."""


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
    for consumer in _items(source, ("consumers",)):
        check_roles(source, (*consumer, "roles"))
    keys = [_items(source, (*consumer, "keys")) for consumer in _items(source, ("consumers",))]
    for own in keys:
        _once(source, ((*key, "id") for key in own), "id")
    _once(source, ((*key, "sha256") for own in keys for key in own), "key")
    _credentials_differ(source)
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


def check_roles(source: Source, steps: Steps) -> None:
    """Add a fault for each role in the list that stands there which the configuration does not have."""
    roles = source.at(("roles",))
    known = list(roles) if isinstance(roles, dict) else []
    for role in _items(source, steps):
        if isinstance(name := source.at(role), str) and name not in known:
            shown = source.shown(role)
            source.fault(role, f'unknown role "{shown}"{did_you_mean(shown, known)}')


def check_client_certificates(source: Source, steps: Steps) -> None:
    """Add a fault to the plugin that stands there if no listener asks clients for certificates."""
    if not any(source.at((*listener, "tls", "client_ca")) for listener in _items(source, ("listeners",))):
        source.fault(steps, "no listener asks clients for certificates (set `client_ca` in the `tls` of one)")


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
    """Where two routes match alike, the later one would never be reached, or not with the methods that both name."""
    first: dict[tuple[Hashable, str], Steps] = {}
    for route in _items(source, ("routes",)):
        match = source.at((*route, "match"))
        match = match if isinstance(match, dict) else {}
        conditions, listed = _conditions(match), match.get("methods")
        methods = list(map(str, listed)) if isinstance(listed, list) else ["any"]
        taken = [method for method in methods if (conditions, method) in first]
        if conditions is not None and taken:
            which = "" if taken == methods else f" with {' and '.join(taken)}"
            earlier = _where(source, first[conditions, taken[0]])
            source.fault(route, f"matches what an earlier route takes{which} ({earlier})")
        first |= {(conditions, method): route for method in methods if method not in taken}


def _conditions(match: Mapping[str, Any]) -> Hashable:
    """What a match asks for besides methods, however it is written; None for a path that is not valid."""
    try:
        segments, below = path_pattern(str(match.get("path", "/*")))
    except ValueError:
        return None
    path = tuple("{}" if segment[:1] == "{" else segment for segment in segments)
    headers = match.get("headers")
    fields = headers.items() if isinstance(headers, dict) else ()
    return (
        str(match.get("host")).lower(),
        path,
        below,
        frozenset((str(name).lower(), str(value)) for name, value in fields),
    )


def _once(source: Source, places: Iterable[Steps], what: str) -> None:
    first: dict[str, Steps] = {}
    for steps in places:
        value = source.at(steps)
        if isinstance(value, str):
            earlier = first.setdefault(_SAME.get(what, str)(value), steps)
            if earlier is not steps:
                source.fault(steps, f'{what} "{source.shown(steps)}" is taken ({_where(source, earlier)})')


def _credentials_differ(source: Source) -> None:
    """What a caller shows must tell who it is: no two consumers have the same."""
    consumers = _items(source, ("consumers",))
    passwords = [password for who in consumers for password in _items(source, (*who, "passwords"))]
    users = [(*password, "user" if source.at((*password, "user")) is not None else "id") for password in passwords]
    _once(source, users, "user")
    _once(source, ((*key, "id") for who in consumers for key in _items(source, (*who, "hmac_keys"))), "id")
    certificates = [shown for who in consumers for shown in _items(source, (*who, "certificates"))]
    for field in CERTIFICATE_FIELDS:
        _once(source, ((*shown, field) for shown in certificates), field)


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
