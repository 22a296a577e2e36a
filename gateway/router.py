"""Router: finds the most specific route for a request; compiled once, then a dictionary look-up per path segment.

Specific means, in this order: an exact host before a `*.` host before any host; segment by segment an exact segment
before a `{name}` before `/*`; more header conditions before fewer; a list of methods before any method; and at last
the order in the file. Paths are compared as RFC 3986 §6.2.2 normalizes them, so that `/open/../books` is `/books`
here as it may be at the upstream; what goes upstream stays byte for byte what came. What was found is remembered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final
from urllib.parse import unquote

from gateway.exchange import Request
from gateway.http1.grammar import host_name
from gateway.path import path_pattern, path_segments
from gateway.problem import MethodNotAllowed, NoRoute
from gateway.route import Route

_NO_PARAMETERS: Final[Mapping[str, str]] = MappingProxyType({})
LONGEST_REMEMBERED: Final = 256
"""Characters of a path for which the route is remembered."""
MOST_REMEMBERED: Final = 4096
"""Requests for which the route is remembered; when there are so many, all are forgotten."""


class _Node:
    """One place in the tree of path segments."""

    __slots__ = ("below", "children", "here", "parameter")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.here: list[Route] = []
        self.below: list[Route] = []


class Router:
    """All routes, by host and path."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._exact: dict[str, _Node] = {}
        self._suffix: dict[str, _Node] = {}
        self._any = _Node()
        for place, route in enumerate(routes):
            route.place = place
            self._insert(self._tree_for(route.match.host), route)
        for tree in (*self._exact.values(), *self._suffix.values(), self._any):
            _sort(tree)
        # What was found before, by what it depends on; unless it may depend on any header field.
        self._found: dict[tuple[str, str, str], tuple[Route, Mapping[str, str]]] = {}
        self._remembers = not any(route.header_conditions for route in routes)

    def find(self, request: Request) -> tuple[Route, Mapping[str, str]]:
        """The route for a request, and what the `{name}` segments of its path stood for.

        Raises NoRoute, MethodNotAllowed (with Allow), or BadRequest for a path no two servers would read alike.
        """
        target = request.target
        path = target.partition("?")[0] if "?" in target else target
        key = (request.host, request.method, path)
        found = self._found.get(key)
        if found is None:
            found = self._find(request, path)
            if self._remembers and len(path) <= LONGEST_REMEMBERED:
                if len(self._found) >= MOST_REMEMBERED:
                    self._found.clear()
                self._found[key] = found
        return found

    def _find(self, request: Request, path: str) -> tuple[Route, Mapping[str, str]]:
        segments = path_segments(path)
        allowed: set[str] = set()
        trees = self._trees(request.host) if self._exact or self._suffix else (self._any,)
        for tree in trees:
            found = _search(tree, segments, 0, (), request, allowed)
            if found is not None:
                return found
        if allowed:
            raise MethodNotAllowed(headers={"allow": ", ".join(sorted(allowed))})
        raise NoRoute

    def _tree_for(self, host: str | None) -> _Node:
        if host is None:
            return self._any
        if host.startswith("*."):
            return self._suffix.setdefault(host[1:].lower(), _Node())
        return self._exact.setdefault(host.lower(), _Node())

    def _trees(self, authority: str) -> Iterator[_Node]:
        host = host_name(authority)
        if (tree := self._exact.get(host)) is not None:
            yield tree
        if self._suffix:
            dot = host.find(".")
            while dot >= 0:
                if (tree := self._suffix.get(host[dot:])) is not None:
                    yield tree
                dot = host.find(".", dot + 1)
        yield self._any

    @staticmethod
    def _insert(tree: _Node, route: Route) -> None:
        segments, below = path_pattern(route.match.path)
        node = tree
        for segment in segments:
            if segment[:1] == "{":
                node.parameter = node.parameter or _Node()
                node = node.parameter
                route.parameter_names.append(segment[1:-1])
            else:
                node = node.children.setdefault(segment, _Node())
        (node.below if below else node.here).append(route)


def _search(
    node: _Node, segments: Sequence[str], depth: int, values: tuple[str, ...], request: Request, allowed: set[str]
) -> tuple[Route, Mapping[str, str]] | None:
    """The most specific route in this part of the tree; the methods of those that lack only that go to `allowed`."""
    found = None
    if depth == len(segments):
        if node.here:
            found = _choose(node.here, values, request, allowed)
    else:
        segment = segments[depth]
        child = node.children.get(segment)
        if child is not None:
            found = _search(child, segments, depth + 1, values, request, allowed)
        if found is None and node.parameter is not None and segment:
            found = _search(node.parameter, segments, depth + 1, (*values, segment), request, allowed)
    if found is None and node.below:
        found = _choose(node.below, values, request, allowed)
    return found


def _choose(
    routes: Sequence[Route], values: tuple[str, ...], request: Request, allowed: set[str]
) -> tuple[Route, Mapping[str, str]] | None:
    for route in routes:
        if route.header_conditions and not route.headers_hold(request.headers):
            continue
        if route.methods is None or request.method in route.methods:
            return route, _parameters(route, values) if values else _NO_PARAMETERS
        allowed |= route.methods
    return None


def _parameters(route: Route, values: tuple[str, ...]) -> Mapping[str, str]:
    return MappingProxyType({n: unquote(value) for n, value in zip(route.parameter_names, values, strict=False)})


def _sort(node: _Node) -> None:
    for routes in (node.here, node.below):
        routes.sort(key=lambda route: (-len(route.header_conditions), route.methods is None, route.place))
    for child in node.children.values():
        _sort(child)
    if node.parameter is not None:
        _sort(node.parameter)
