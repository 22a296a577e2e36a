"""Span: what the gateway did for one request, as OTLP JSON (opentelemetry-proto `trace.proto`, its JSON mapping).

Attributes follow OpenTelemetry's semantic conventions for HTTP server spans, 1.23 or later; what they have no name for
begins with `tallygate.`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from gateway.clock import uuid_text
from gateway.exchange import Exchange
from gateway.route import UNMATCHED

_SERVER: Final = 2
_ERROR: Final = 2
_LONGEST: Final = 512
"""Characters of anything that a client may make as long as it likes."""
_KNOWN_METHODS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
_QUERY_VALUE: Final = re.compile(r"=[^&]*")

_encode: Final = msgspec.json.Encoder().encode


class Ids(msgspec.Struct, frozen=True, gc=False):
    """Which span this is, and of which trace; `parent_id` is empty where the trace begins. All in hexadecimal."""

    trace_id: str
    span_id: str
    parent_id: str
    flags: int
    state: str


def span(exchange: Exchange, ids: Ids) -> bytes:
    """The span of an exchange that is over."""
    request = exchange.request
    known = request.method in _KNOWN_METHODS
    name = request.method if known else "HTTP"
    start = exchange.admitted_at * 1000
    document: dict[str, Any] = {
        "traceId": ids.trace_id,
        "spanId": ids.span_id,
        "flags": ids.flags,
        "name": name if exchange.route == UNMATCHED else f"{name} {exchange.route}",
        "kind": _SERVER,
        "startTimeUnixNano": str(start),
        "endTimeUnixNano": str(start + _nanos(exchange, exchange.finished_at)),
        "attributes": _attributes(exchange, known=known),
    }
    if ids.parent_id:
        document["parentSpanId"] = ids.parent_id
    if ids.state and len(ids.state) <= _LONGEST:
        document["traceState"] = ids.state
    if _error_type(exchange):
        document["status"] = {"code": _ERROR}
    if exchange.upstream_sent_at:
        document["events"] = list(_events(exchange, start))
    return _encode(document)


def _attributes(exchange: Exchange, *, known: bool) -> list[dict[str, Any]]:
    request, consumer = exchange.request, exchange.consumer
    path, _, query = request.target.partition("?")
    address, port = _authority(request.host)
    found = {
        "http.request.method": request.method if known else "_OTHER",
        "http.request.method_original": "" if known else request.method[:_LONGEST],
        "url.scheme": request.scheme,
        "url.path": path[:_LONGEST],
        "url.query": _QUERY_VALUE.sub("=REDACTED", query)[:_LONGEST],
        "server.address": address[:_LONGEST],
        "client.address": request.client,
        "network.peer.address": request.peer,
        "network.protocol.version": "1.0" if request.http10 else "1.1",
        "user_agent.original": (request.headers.get("user-agent") or "")[:_LONGEST],
        "error.type": _error_type(exchange),
        "tallygate.request_id": uuid_text(exchange.id),
        "tallygate.route": exchange.route,
        "tallygate.upstream": exchange.upstream,
        "tallygate.consumer": consumer.name if consumer is not None else "",
        "tallygate.organization": consumer.organization if consumer is not None else "",
    }
    attributes: list[dict[str, Any]] = [
        {"key": key, "value": {"stringValue": text}} for key, text in found.items() if text
    ]
    if port:
        attributes.append({"key": "server.port", "value": {"intValue": port}})
    if exchange.status_sent:
        attributes.append({"key": "http.response.status_code", "value": {"intValue": str(exchange.status_sent)}})
    return attributes


def _events(exchange: Exchange, start: int) -> Iterator[dict[str, Any]]:
    called = start + _nanos(exchange, exchange.upstream_sent_at)
    upstream = {"key": "tallygate.upstream", "value": {"stringValue": exchange.upstream}}
    yield {"timeUnixNano": str(called), "name": "upstream.attempt", "attributes": [upstream]}
    if exchange.upstream_headed_at:
        yield {"timeUnixNano": str(start + _nanos(exchange, exchange.upstream_headed_at)), "name": "upstream.head"}


def _nanos(exchange: Exchange, moment: float) -> int:
    """Nanoseconds from the beginning of the exchange to a moment of the monotonic clock."""
    return int((moment - exchange.started_at) * 1_000_000_000)


def _authority(host: str) -> tuple[str, str]:
    """Name and port of a Host field; the port is empty where there is none."""
    address, colon, port = host.rpartition(":")
    return (address, port) if colon and port.isdigit() else (host, "")


def _error_type(exchange: Exchange) -> str:
    """Why the span is an error: who broke it off, or a status from 500; empty if it is none."""
    if exchange.outcome != "ok":
        return exchange.outcome
    return str(exchange.status_sent) if exchange.status_sent >= 500 else ""
