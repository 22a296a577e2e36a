"""Route: which requests it matches, which plugins they walk through, and which upstream answers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field, field_validator

from gateway.chain import Chain
from gateway.clock import Clock
from gateway.exchange import Exchange, Note, Response
from gateway.headers import Headers
from gateway.options import Options, Size
from gateway.problem import MethodNotAllowed, Problem
from gateway.websocket.handshake import WebSocketOptions, ask

if TYPE_CHECKING:
    from gateway.upstream.call import Caller, Underway
    from gateway.upstream.upstream import Upstream

ANY_METHODS: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
UNMATCHED: Final = "-"
"""Stands for the route in logs and metrics where no route matched."""
WHY_UNMATCHED: Final = Note[Problem]()
"""What the router found wrong with a request that it gave to no route."""


class MatchOptions(Options):
    """What a request must look like. Everything given must hold."""

    host: str | None = None
    """Host name, or `*.example.com` for its subdomains. Any host if absent."""
    path: str = "/*"
    """Path; `{name}` stands for one segment and is remembered, a final `/*` for the path itself and all below it."""
    methods: list[str] | None = None
    """Methods in capital letters. Any method if absent."""
    headers: dict[str, str] = {}
    """Header fields and the exact values they must have."""

    @field_validator("methods")
    @classmethod
    def _methods_are_in_capitals(cls, value: list[str] | None) -> list[str] | None:
        for method in value or ():
            if not re.fullmatch(r"[A-Z]+(-[A-Z]+)*", method):
                raise ValueError(f"not a method: {method!r} (write GET, POST, …)")
        return value


class RouteOptions(Options):
    """One way through the gateway. Of the routes that match a request the most specific one takes it."""

    name: str = Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$")
    """Name in logs, metrics and usage records."""
    match: MatchOptions = MatchOptions()
    """Which requests take this route."""
    upstream: str
    """Name of the upstream that answers."""
    plugins: list[dict[str, Any]] = []
    """Plugins of this route, after those of the top level, in order: `- name: {options}`."""
    on_disconnect: Literal["cancel", "drain"] = "cancel"
    """When the client leaves early: `cancel` the upstream call, or `drain` it to the end so that its usage is known."""
    max_body: Size = 4 * 2**30
    """Largest request body; a larger one is answered 413."""
    websocket: WebSocketOptions | None = None
    """Lets requests become WebSockets; `{}` for the usual limits. Without it the upstream is never asked for one."""


class Route:
    """A route made ready: its chain bound, its conditions in the form they are tested in."""

    def __init__(self, options: RouteOptions, chain: Chain, upstream: Upstream, clock: Clock) -> None:
        self.name = options.name
        self.match = options.match
        self.methods = frozenset(options.match.methods) if options.match.methods is not None else None
        self.header_conditions = [(name.lower(), value) for name, value in options.match.headers.items()]
        self.chain = chain
        self.upstream = upstream
        self.max_body = options.max_body
        self.on_disconnect = options.on_disconnect
        self.websocket = options.websocket
        self.place = 0
        self.parameter_names: list[str] = []
        self._clock = clock

    def headers_hold(self, headers: Headers) -> bool:
        """Whether every header condition has a field with exactly its value."""
        return all(value in headers.getall(name) for name, value in self.header_conditions)

    def forward(self, exchange: Exchange, caller: Caller) -> Underway | None:
        """Call the upstream for an exchange.

        A request whose Max-Forwards is used up is answered here instead, as its final recipient (RFC 9110 §7.6.2).
        One whose body has failed already is no upstream's business.
        """
        request = exchange.request
        if request.max_forwards == 0:
            caller.answered(self._last_hop(request.method))
            return None
        refusal = request.body.error
        if request.upgrade and self.websocket is not None:
            try:
                ask(request, self.websocket)
            except Problem as problem:
                refusal = problem
        if refusal is not None:
            caller.failed(refusal)
            return None
        exchange.upstream = self.upstream.name
        exchange.upstream_sent_at = self._clock.monotonic()
        return self.upstream.call(request, caller)

    def _last_hop(self, method: str) -> Response:
        allow = {"allow": ", ".join(sorted(self.methods or ANY_METHODS))}
        if method == "TRACE":  # reflecting a request would reflect its credentials
            return MethodNotAllowed(headers=allow).response()
        return Response(204, allow)


class Unmatched:
    """What takes a request that no route matches: the plugins of the top level, so that it is logged like any other."""

    name = UNMATCHED
    max_body = 0
    on_disconnect: Literal["cancel", "drain"] = "cancel"

    def __init__(self, chain: Chain) -> None:
        self.chain = chain

    def forward(self, exchange: Exchange, caller: Caller) -> None:
        """Nothing stands behind: the caller hears of the problem that the router found, `OPTIONS *` of the server."""
        if exchange.request.target == "*":
            caller.answered(Response(204))
        else:
            caller.failed(exchange[WHY_UNMATCHED])
