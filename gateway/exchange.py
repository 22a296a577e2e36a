"""Exchange: one request, its response, and what the gateway learned on the way."""

from __future__ import annotations

from asyncio import Future, gather
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeAlias, TypeVar

from gateway.body import NO_BODY, Body
from gateway.headers import Headers

if TYPE_CHECKING:
    from gateway.clock import Clock
    from gateway.tls.certificate import ClientCertificate
    from gateway.websocket.handshake import Handshake

T = TypeVar("T")
Outcome: TypeAlias = Literal["ok", "upstream_error", "client_gone"]
Inform: TypeAlias = Callable[[int, list[tuple[str, str]]], None]


class Request:
    """What the client asked for.

    `target` is the request target as it goes upstream, byte for byte (latin-1); `path` is its part before the `?`,
    `query` the part after it. `peer` is the address that the socket says, empty where the gateway itself asks; `client`
    the address that the trusted proxies say, without port. Header names are matched without case and keep the case they
    came in. `identity` is header lines for the upstream that say who calls; only authentication sets it. `inform` sends
    an interim response (1xx) to the client, where the client can understand one. `upgrade` is the protocols that the
    client would go on in; only where the route lets it does the upstream hear of that, in the words of a `handshake`.
    """

    # What most requests do not have stands in the class: an instance costs what it differs by.
    scheme = "http"
    hop_scheme = "http"
    """How the peer reached us; `scheme` is how the client began, where a trusted proxy says so."""
    certificate: ClientCertificate | None = None
    """What the peer has proved to be in the TLS handshake, if it was asked and had a certificate to show."""
    peer = ""
    client = ""
    identity = b""
    inform: Inform | None = None
    max_forwards: int | None = None
    accepts_trailers = False
    upgrade: frozenset[str] = frozenset()
    handshake: Handshake | None = None
    keep_alive = True
    expects_continue = False

    body: Body = NO_BODY
    host = ""
    http10 = False

    def __init__(self, method: str, target: str, headers: Headers, body: Body = NO_BODY) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        if body is not NO_BODY:
            self.body = body

    @property
    def path(self) -> str:
        """The target before its `?`."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """The target after its `?`, or nothing."""
        return self.target.partition("?")[2]


STREAMS: Final = frozenset({"text/event-stream", "application/x-ndjson", "application/jsonl", "application/json-seq"})
"""Media types of events that come one after another, for as long as there are any."""


class Response:
    """What goes back: made by an upstream (`proxied`, its body perhaps still arriving), or by a plugin.

    `reason` is the reason phrase as it came (latin-1), None for the usual one. `http10`: it came in HTTP/1.0.
    """

    # As in a Request: what most responses do not have.
    proxied = False
    http10 = False

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

    @property
    def streams(self) -> bool:
        """Whether it is a stream of events."""
        return (self.headers.get("content-type") or "").partition(";")[0].strip().lower() in STREAMS

    def close(self) -> None:
        """Nobody will send this response: an unsent body is given up and its upstream connection closed."""
        if isinstance(self.body, Body):
            self.body.close()


class Note(Generic[T]):
    """A typed key for a plugin's own state on an exchange: `STARTED = Note[float]()`, `exchange[STARTED] = now`."""

    __slots__ = ()


class Exchange(dict[Note[Any], Any]):
    """One request on its way through a chain; as a mapping, the notes that plugins took on it: `exchange[STARTED]`.

    Times are seconds of the monotonic clock, but `admitted_at` is microseconds since the epoch; `bytes_in` and
    `bytes_out` count payload bytes, as received from and handed to the client, `messages_in` and `messages_out` the
    messages of a WebSocket, behind which all four lag by up to a quarter of a second. `hold_last` is what the last byte
    of the response waits for.
    """

    # What most exchanges do not come to have stands in the class: an instance costs what it differs by.
    _id: bytes | None = None
    route = ""
    parameters: Mapping[str, str] = MappingProxyType({})
    consumer: Any = None
    """A consumers.Consumer once authentication named one."""
    challenge = ""
    """What asks for another token, in the field WWW-Authenticate, where it was a token that named the consumer."""
    refused = ""
    """Why authentication refused the token that was shown: for the operator, and never for who showed it."""
    decision: Any = None
    """A permissions.Decision where authorization wants it logged: always where it refused."""
    reached = -1
    """The last place in the chain that this request entered."""
    response: Response | None = None
    upstream = ""
    upstream_sent_at = 0.0
    upstream_headed_at = 0.0
    finished_at = 0.0
    status_sent = 0
    """0 until a head was handed to the client."""
    bytes_out = 0
    messages_in = 0
    messages_out = 0
    outcome: Outcome = "ok"
    on_disconnect: Literal["cancel", "drain"] = "cancel"
    until_close = False
    """The client learns the end of the body from the end of the connection."""
    hold_last: Future[Any] | None = None
    billed: Literal["nothing", "use", "delivery"] = "nothing"
    """What of this answer was billed when it was given before: what it used, or that it was delivered as well."""

    def __init__(self, request: Request, clock: Clock) -> None:
        self.clock = clock
        self.request = request
        self.started_at = clock.monotonic()
        self.admitted_at = clock.nanos() // 1000

    # An exchange is itself, whatever was noted on it.
    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__
    __ne__ = object.__ne__

    def __bool__(self) -> bool:
        return True

    if TYPE_CHECKING:  # a note's value has the note's type

        def __getitem__(self, note: Note[T], /) -> T: ...
        def __setitem__(self, note: Note[T], value: T, /) -> None: ...
        def get(self, note: Note[T], default: T | None = None, /) -> T | None: ...

    @property
    def id(self) -> bytes:
        """The exchange's UUIDv7: request id and event id in one; made when first asked for."""
        if self._id is None:
            self._id = self.clock.uuid7()
        return self._id

    def hold(self, ready: Future[Any]) -> None:
        """The last byte of the response waits for this, and for what it waits for already."""
        self.hold_last = ready if self.hold_last is None else gather(self.hold_last, ready)

    @property
    def bytes_in(self) -> int:
        """Payload bytes received from the client so far."""
        return self.request.body.received
