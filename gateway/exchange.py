"""Exchange: one request, its response, and what the gateway learned on the way."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from gateway.body import NO_BODY, Body
from gateway.headers import Headers

if TYPE_CHECKING:
    from gateway.clock import Clock

T = TypeVar("T")
Inform: TypeAlias = Callable[[int, list[tuple[str, str]]], None]


class Request:
    """What the client asked for.

    `target` is the request target as it goes upstream, byte for byte (latin-1); `path` is its part before the `?`,
    `query` the part after it. `peer` is the address that the socket says, `client` the address that the trusted
    proxies say, without port. Header names are matched without case and keep the case they came in. `identity` is
    header lines for the upstream that say who calls; only authentication sets it. `inform` sends an interim
    response (1xx) to the client, where the client can understand one.
    """

    __slots__ = (
        "accepts_trailers",
        "body",
        "client",
        "headers",
        "host",
        "http10",
        "identity",
        "inform",
        "max_forwards",
        "method",
        "peer",
        "scheme",
        "target",
    )

    def __init__(
        self, method: str, target: str, headers: Headers, body: Body = NO_BODY, host: str = "", http10: bool = False
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body
        self.host = host
        self.http10 = http10
        self.scheme = "http"
        self.peer = ""
        self.client = ""
        self.identity = b""
        self.inform: Inform | None = None
        self.max_forwards: int | None = None
        self.accepts_trailers = False

    @property
    def path(self) -> str:
        """The target before its `?`."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """The target after its `?`, or nothing."""
        return self.target.partition("?")[2]


class Response:
    """What goes back: made by an upstream (`proxied`, its body perhaps still arriving), or by a plugin.

    `reason` is the reason phrase as it came (latin-1), None for the usual one.
    """

    __slots__ = ("body", "headers", "proxied", "reason", "status")

    def __init__(
        self,
        status: int,
        headers: Headers | Mapping[str, str] | None = None,
        body: Body | bytes = b"",
        reason: bytes | None = None,
    ) -> None:
        self.status = status
        self.headers = headers if isinstance(headers, Headers) else Headers(headers or {})
        self.body = body
        self.reason = reason
        self.proxied = False

    def close(self) -> None:
        """Nobody will send this response: an unsent body is given up and its upstream connection closed."""
        if isinstance(self.body, Body):
            self.body.close()


class Note(Generic[T]):
    """A typed key for a plugin's own state on the exchange: `STARTED = Note[float]()`, `exchange[STARTED] = now`."""

    __slots__ = ()


class Exchange:
    """One request on its way through a chain.

    Times are seconds of the monotonic clock, `admitted_at` is microseconds since the epoch; `bytes_in` and `bytes_out`
    count payload bytes, as received from and handed to the client. `outcome` is `ok`, `upstream_error` or
    `client_gone`. `hold_last` is a future that the last byte of the response waits for (see `metering/journal.py`).
    """

    __slots__ = (
        "_clock",
        "_id",
        "_notes",
        "admitted_at",
        "answered_by",
        "bytes_out",
        "consumer",
        "finished_at",
        "hold_last",
        "on_disconnect",
        "outcome",
        "parameters",
        "reached",
        "request",
        "response",
        "route",
        "started_at",
        "status_sent",
        "until_close",
        "upstream",
        "upstream_ended_at",
        "upstream_headed_at",
        "upstream_sent_at",
    )

    def __init__(self, request: Request, clock: Clock) -> None:
        self._clock = clock
        self._id: bytes | None = None
        self._notes: dict[Note[Any], Any] | None = None
        self.request = request
        self.response: Response | None = None
        self.route = ""
        self.parameters: dict[str, str] = {}
        self.consumer: Any = None  # a consumers.Consumer once authentication named one
        self.reached = -1  # the last place in the chain this request entered
        self.started_at = clock.monotonic()
        self.admitted_at = clock.micros()
        self.finished_at = 0.0
        self.upstream = ""
        self.upstream_sent_at = 0.0
        self.upstream_headed_at = 0.0
        self.upstream_ended_at = 0.0
        self.answered_by = ""  # address of the target that answered
        self.status_sent = 0  # 0 until a head was handed to the client
        self.bytes_out = 0
        self.outcome = "ok"
        self.on_disconnect = "cancel"
        self.until_close = False  # the client learns the end of the body from the end of the connection
        self.hold_last: Future[None] | None = None

    @property
    def id(self) -> bytes:
        """The exchange's UUIDv7: request id, event id and hold id in one; made when first asked for."""
        if self._id is None:
            self._id = self._clock.uuid7()
        return self._id

    @property
    def bytes_in(self) -> int:
        """Payload bytes received from the client so far."""
        return self.request.body.received

    def __getitem__(self, note: Note[T]) -> T:
        if self._notes is None:
            raise KeyError(note)
        value: T = self._notes[note]
        return value

    def __setitem__(self, note: Note[T], value: T) -> None:
        if self._notes is None:
            self._notes = {}
        self._notes[note] = value

    def get(self, note: Note[T], default: T | None = None) -> T | None:
        """The note's value, or `default` where nothing was noted."""
        return self._notes.get(note, default) if self._notes else default
