"""Route: which requests it matches, which plugins they walk through, and which upstream answers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from gateway.chain import Chain
from gateway.clock import Clock
from gateway.exchange import Exchange, Note, Response
from gateway.headers import Headers
from gateway.list_options import Methods
from gateway.options import Options, Size
from gateway.problem import MethodNotAllowed, Problem
from gateway.upstream.bulkhead import BulkheadOptions
from gateway.upstream.destination import Destination
from gateway.upstream.fallback import FallbackOptions
from gateway.upstream.mirror import MirrorOptions
from gateway.upstream.request_key import RequestKeyOptions
from gateway.upstream.split import SplitOptions, check_split
from gateway.websocket.handshake import WebSocketOptions, ask

if TYPE_CHECKING:
    from gateway.upstream.call import Caller, Underway
    from gateway.upstream.upstream import Upstream

ANY_METHODS: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
_HOST: Final = re.compile(r"(?:\*\.)?[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\]")
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
    methods: Methods | None = None
    """Methods in capital letters. Any method if absent."""
    headers: dict[str, str] = {}
    """Header fields and the exact values they must have."""

    @field_validator("host")
    @classmethod
    def _host_is_a_name(cls, value: str | None) -> str | None:
        if value == "*":
            raise ValueError("`*` alone is no host (leave `host` out: then any host will do)")
        if value is not None and not _HOST.fullmatch(value):
            raise ValueError(f"not a host: {value!r} (write api.example.com or *.example.com, without a port)")
        return value

    @field_validator("methods")
    @classmethod
    def _some_method_is_left(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and not value:
            raise ValueError("no method at all (leave `methods` out: then any method will do)")
        return value


class RouteOptions(Options):
    """One way through the gateway. Of the routes that match a request the most specific one takes it."""

    name: str = Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$")
    """Name in logs, metrics and usage records."""
    match: MatchOptions = MatchOptions()
    """Which requests take this route."""
    upstream: str | None = None
    """Name of the upstream that answers; in its place there may be a `split`. Neither is needed where a plugin answers
    all requests itself, as `reply` does."""
    split: list[SplitOptions] = []
    """Upstreams that share the requests by weight, for a canary or for two versions side by side."""
    split_by: RequestKeyOptions | None = None
    """What keeps callers at their upstream of the split; without it each request is drawn by itself."""
    mirror: MirrorOptions | None = None
    """Another upstream that a share of the requests is sent to as well; its answers are thrown away."""
    fallback: FallbackOptions | None = None
    """What is done when the upstream refuses or fails."""
    bulkhead: BulkheadOptions | None = None
    """How many requests of this route one process may have in flight; those beyond it wait, then are answered 503."""
    sheddable: bool = True
    """Whether requests may be refused while the gateway is overloaded, where `shedding` is configured."""
    plugins: list[dict[str, Any]] = []
    """Plugins of this route, after those of the top level, in order: `- name: {options}`."""
    on_disconnect: Literal["cancel", "drain"] = "cancel"
    """When the client leaves early: `cancel` the upstream call, or `drain` it to the end so that its usage is known.
    One that closes only its sending side counts as gone too."""
    max_body: Size = 4 * 2**30
    """Largest request body; a larger one is answered 413."""
    websocket: WebSocketOptions | None = None
    """Lets requests become WebSockets; `{}` for the usual limits. Without it the upstream is never asked for one."""

    @field_validator("split")
    @classmethod
    def _split_is_possible(cls, value: list[SplitOptions]) -> list[SplitOptions]:
        check_split(value)
        return value

    @model_validator(mode="after")
    def _there_is_one_destination(self) -> RouteOptions:
        if self.upstream is not None and self.split:
            raise ValueError("a route goes to one upstream or to several: write one of `upstream` and `split`")
        if self.split_by is not None and not self.split:
            raise ValueError("`split_by` says how a `split` is made (write the `split`, or leave it out)")
        for name in ("mirror", "fallback", "bulkhead", "websocket") if not self.shares else ():
            if getattr(self, name) is not None:
                raise ValueError(
                    f"`{name}` is about an upstream, and none is named (write `upstream`, or leave it out)"
                )
        return self

    @model_validator(mode="after")
    def _others_are_others(self) -> RouteOptions:
        if self.mirror is not None and self.mirror.upstream in self.shares:
            raise ValueError(f"mirrors to {self.mirror.upstream!r}, which answers anyway (name another upstream)")
        if self.fallback is not None and list(self.shares) == [self.fallback.upstream]:
            raise ValueError(f"falls back to {self.fallback.upstream!r}, the one that failed (name another upstream)")
        return self

    @property
    def shares(self) -> dict[str, int]:
        """The upstreams that answer, each with its weight; none where a plugin does."""
        if self.upstream is not None:
            return {self.upstream: 1}
        return {arm.upstream: arm.weight for arm in self.split if arm.weight}


class Nowhere:
    """Stands behind a route without an upstream. Its plugins answer everything; what they let through all the same is a
    bug of theirs.
    """

    def call(self, exchange: Exchange, caller: Caller) -> None:
        """The caller hears that the gateway failed."""
        caller.failed(Problem())


class Route:
    """A route made ready: its chain bound, its conditions in the form they are tested in."""

    def __init__(
        self, options: RouteOptions, chain: Chain, destination: Upstream | Destination | Nowhere, clock: Clock
    ) -> None:
        self.name = options.name
        self.match = options.match
        self.methods = frozenset(options.match.methods) if options.match.methods is not None else None
        self.header_conditions = [(name.lower(), value) for name, value in options.match.headers.items()]
        self.chain = chain
        self.sheddable = options.sheddable
        self.max_body = options.max_body
        self.on_disconnect = options.on_disconnect
        self.websocket = options.websocket
        self.place = 0
        self.parameter_names: list[str] = []
        self._clock = clock
        self._destination: Destination | Nowhere | None = None
        if isinstance(destination, Destination | Nowhere):
            self._destination = destination
        else:
            self._upstream = destination

    def headers_hold(self, headers: Headers) -> bool:
        """Whether every header condition has a field with exactly its value."""
        return all(value in headers.getall(name) for name, value in self.header_conditions)

    def forward(self, exchange: Exchange, caller: Caller) -> Underway | None:
        """Call what is behind the route for an exchange. None if the caller has heard of the answer already.

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
        if self._destination is not None:
            return self._destination.call(exchange, caller)
        upstream = self._upstream
        exchange.upstream = upstream.name
        exchange.upstream_sent_at = self._clock.monotonic()
        return upstream.call(request, caller)

    def _last_hop(self, method: str) -> Response:
        allow = {"allow": ", ".join(sorted(self.methods or ANY_METHODS))}
        if method == "TRACE":  # reflecting a request would reflect its credentials
            return MethodNotAllowed(headers=allow).response()
        return Response(204, allow)


class Unmatched:
    """What takes a request that no route matches: the plugins of the top level, so that it is logged like any other."""

    name = UNMATCHED
    max_body = 0
    sheddable = True
    on_disconnect: Literal["cancel", "drain"] = "cancel"

    def __init__(self, chain: Chain) -> None:
        self.chain = chain

    def forward(self, exchange: Exchange, caller: Caller) -> None:
        """Nothing stands behind: the caller hears of the problem that the router found, `OPTIONS *` of the server."""
        if exchange.request.target == "*":
            caller.answered(Response(204))
        else:
            caller.failed(exchange[WHY_UNMATCHED])
