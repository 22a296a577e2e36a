"""Forwarding: what a proxy takes out of a message and what it puts in (RFC 9110 §7.6, RFC 7239).

Fields of one hop end here. What clients may not claim about themselves (where they come from, who they are) is taken
out and said again by us. The rules live here once, for both directions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from http import HTTPStatus
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

from gateway.body import Body
from gateway.exchange import Request, Response
from gateway.headers import Headers, twins
from gateway.http1.grammar import CHUNKED, HOP_BY_HOP, TOKEN, valid_host

PSEUDONYM: Final = "tallygate"
"""How this gateway names itself in Via."""
_END: Final = f"Via: 1.1 {PSEUDONYM}\r\n\r\n".encode()
_END_HTTP10: Final = f"Via: 1.0 {PSEUDONYM}\r\n\r\n".encode()

_FORWARDED: Final = frozenset(
    {
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-prefix",
        "x-forwarded-proto",
        "x-forwarded-scheme",
        "x-forwarded-server",
        "x-forwarded-ssl",
        "x-real-ip",
    }
)
_PORT: Final = re.compile(r"[1-9]\d{0,4}", re.ASCII)
_PREFIX: Final = re.compile(r"/[!-~]*")
_WORD: Final = TOKEN.decode("ascii")
_PAIR: Final = rf'{_WORD}=(?:{_WORD}|"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*")'
_ELEMENT: Final = rf"{_PAIR}(?:;{_PAIR})*"
_ELEMENTS: Final = re.compile(rf"{_ELEMENT}(?:[\t ]*,[\t ]*{_ELEMENT})*")
"""The value of Forwarded (RFC 7239 §4)."""
_OURS: Final = frozenset({"x-tallygate-consumer", "x-tallygate-mirror", "x-tallygate-organization", "x-tallygate-user"})
# Said anew for the next hop. `Proxy` would become HTTP_PROXY in a CGI environment (httpoxy, CVE-2016-5385).
_SAID_ANEW: Final = HOP_BY_HOP | _FORWARDED | _OURS | {"proxy", "host", "content-length", "max-forwards"}
_TRUSTED_BY_UPSTREAMS: Final = _SAID_ANEW | {"x-request-id", "authorization", "cookie", "via", "expect", "traceparent"}
_NEVER_UPSTREAM: Final = _SAID_ANEW | {twin for name in _TRUSTED_BY_UPSTREAMS for twin in twins(name)}
_NEVER_UPSTREAM_ONCE_READ: Final = _NEVER_UPSTREAM | {"expect"}
# Fields that would change how the message around them is read, routed or trusted (RFC 9110 §6.5.1).
_NEVER_IN_TRAILERS: Final = (
    _NEVER_UPSTREAM
    | _TRUSTED_BY_UPSTREAMS
    | {"age", "cache-control", "content-encoding", "content-range", "content-type", "range", "set-cookie", "vary"}
)


# Methods whose requests say so if they have no content (RFC 9110 §8.6).
_WITH_CONTENT: Final = frozenset({"POST", "PUT", "PATCH"})
WEBSOCKET: Final = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
"""What asks for a WebSocket, and what agrees to one (RFC 6455 §4)."""
_NOTHING: Final[frozenset[str]] = frozenset()
_CONTENT_LENGTH: Final = frozenset({"content-length"})
_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class Forwarding:
    """Says for each request where it came from, in the words of X-Forwarded-* and Forwarded.

    From a peer that is not a trusted proxy nothing is believed: its claims are replaced by what its socket says.
    A trusted proxy's claims are kept and continued: For, Proto, Host, Port and Prefix, and Forwarded.
    """

    def __init__(self, trusted_proxies: Iterable[IPv4Network | IPv6Network] = ()) -> None:
        self._networks = list(trusted_proxies)
        self.trusts_some = bool(self._networks)
        self._trusts: dict[str, bool] = {}
        self._lines: dict[tuple[str, str, str], bytes] = {}

    def trusts(self, address: str) -> bool:
        """Whether this address belongs to a trusted proxy; False for what is no address at all."""
        if not self._networks:
            return False
        known = self._trusts.get(address)
        if known is None:
            try:
                parsed = ip_address(address)
            except ValueError:
                return False
            known = any(parsed in network for network in self._networks)
            if len(self._trusts) >= 4096:
                self._trusts.clear()
            self._trusts[address] = known
        return known

    def client_of(self, peer: str, headers: Headers) -> str:
        """The address the request began at: the last one in X-Forwarded-For that no trusted proxy has."""
        if not self.trusts(peer):
            return peer
        client = peer
        for claim in reversed(",".join(headers.getall("x-forwarded-for")).split(",")):
            address = claim.strip()
            try:
                ip_address(address)
            except ValueError:
                break
            client = address
            if not self.trusts(address):
                break
        return client

    def scheme_of(self, peer: str, headers: Headers) -> str:
        """The scheme that a trusted proxy says the request came by; nothing where none says so."""
        scheme = (headers.get("x-forwarded-proto") or "").lower()
        return scheme if scheme in ("http", "https") and self.trusts(peer) else ""

    def lines(self, request: Request) -> bytes:
        """The header lines that tell an upstream about the client, each ending in CRLF."""
        if self.trusts_some and self.trusts(request.peer):
            return self._continued(request)
        key = (request.peer, request.host, request.scheme)
        lines = self._lines.get(key)
        if lines is None:
            if len(self._lines) >= 4096:
                self._lines.clear()
            lines = self._lines[key] = _render(request.peer, request.scheme, request.host, _element(*key))
        return lines

    def _continued(self, request: Request) -> bytes:
        headers, peer = request.headers, request.peer
        addresses = ", ".join([*headers.getall("x-forwarded-for"), peer])
        host = headers.get("x-forwarded-host") or ""
        host = host if valid_host(host) else request.host
        # Behind a quote that is left open our own element would be a part of theirs.
        theirs = filter(_ELEMENTS.fullmatch, headers.getall("forwarded"))
        elements = ", ".join([*theirs, _element(peer, request.host, request.hop_scheme)])
        port = headers.get("x-forwarded-port") or ""
        port = port if _PORT.fullmatch(port) and int(port) <= 65535 else ""
        prefix = headers.get("x-forwarded-prefix") or ""
        prefix = f"X-Forwarded-Prefix: {prefix}\r\n" if _PREFIX.fullmatch(prefix) else ""
        return _render(addresses, request.scheme, host, elements, port) + prefix.encode("ascii")


def _render(addresses: str, scheme: str, host: str, elements: str, port: str = "") -> bytes:
    if not port:
        port = host.rpartition(":")[2]
        port = port if port.isdigit() else ("443" if scheme == "https" else "80")
    hosts = f"X-Forwarded-Host: {host}\r\n" if host else ""
    return (
        f"X-Forwarded-For: {addresses}\r\nX-Forwarded-Proto: {scheme}\r\n{hosts}X-Forwarded-Port: {port}\r\n"
        f"Forwarded: {elements}\r\n"
    ).encode("latin-1")


def _element(peer: str, host: str, scheme: str) -> str:
    """One hop in the words of RFC 7239 §4; what is no token is quoted."""
    node = f'"[{peer}]"' if ":" in peer else peer or "unknown"
    quoted = host if host.replace(".", "").replace("-", "").isalnum() else f'"{host}"'
    return f"for={node};host={quoted};proto={scheme}" if host else f"for={node};proto={scheme}"


def upstream_head(request: Request, forwarding: Forwarding, host: str) -> bytes:
    """The head that goes to the target: the client's fields, less those of its hop, and ours after them.

    What nobody sent us, as it has no peer, is a question of our own: nothing is forwarded by it.
    """
    body = request.body
    # An expectation that a plugin has met by reading the body is not passed on.
    kept = request.headers.wire(_NEVER_UPSTREAM_ONCE_READ if body.complete else _NEVER_UPSTREAM)
    framing = "" if body.length == 0 and request.method not in _WITH_CONTENT else _framing(body)
    if request.max_forwards is not None:
        framing += f"Max-Forwards: {request.max_forwards - 1}\r\n"
    if request.accepts_trailers:
        framing += "TE: trailers\r\nConnection: TE\r\n"
    if request.handshake is not None:
        framing += WEBSOCKET
    start = f"{request.method} {request.target} HTTP/1.1\r\nHost: {host}\r\n{framing}".encode("latin-1")
    if not request.peer:
        return b"".join((start, kept, request.identity, b"\r\n"))
    end = _END_HTTP10 if request.http10 else _END
    return b"".join((start, kept, forwarding.lines(request), request.identity, end))


def _framing(body: Body) -> str:
    return "Transfer-Encoding: chunked\r\n" if body.length is None else f"Content-Length: {body.length}\r\n"


def client_head(response: Response, length: int | None, persistence: bytes, date: Callable[[], bytes]) -> bytes:
    """The head that goes to the client: the response's fields and ours.

    `length` is the body's size in bytes or CHUNKED, None if the framing stays as it came. `persistence` is
    a line saying whether the connection goes on, where that does not go without saying; `date` says the time.
    """
    status, headers = response.status, response.headers
    start = _STATUS_LINES.get(status)
    if start is None or response.reason is not None:
        start = b"HTTP/1.1 %d %b\r\n" % (status, response.reason or b"")
    kept = headers.wire(_NOTHING if length is None and status != 204 else _CONTENT_LENGTH)
    if length is None:
        framing = b""
    elif length == CHUNKED:
        framing = b"Transfer-Encoding: chunked\r\n"
    else:
        framing = b"Content-Length: %d\r\n" % length
    if "date" not in headers:
        framing += b"Date: %b\r\n" % date()
    end = b"\r\n" if not response.proxied else _END_HTTP10 if response.http10 else _END
    return b"".join((start, kept, framing, persistence, end))


def interim_head(status: int, fields: Iterable[tuple[str, str]]) -> bytes:
    """An interim response (1xx) as it goes to the client."""
    start = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
    return start + "".join([f"{name}: {value}\r\n" for name, value in fields]).encode("latin-1") + b"\r\n"


def passing_trailers(trailers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The trailer fields that may go on, in order."""
    return [(name, value) for name, value in trailers if name.lower() not in _NEVER_IN_TRAILERS]
