"""Write one JSON line per request: who asked for what, what came of it, and where the time went."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final

from gateway.clock import uuid_text
from gateway.exchange import Exchange
from gateway.plugin import Plugin, PluginConfig
from gateway.services import Services

_QUERY_VALUE: Final = re.compile(r"=[^&]*")
_LONGEST: Final = 512


class Config(PluginConfig):
    """What a line may say."""

    query: bool = False
    """Log the values of query parameters too; they may be secrets, so by default only their names are kept."""


class AccessLog(Plugin[Config]):
    """Lines are handed to a sink that never makes a request wait; what it cannot take is dropped and counted."""

    def __init__(self, config: Config, services: Services) -> None:
        super().__init__(config, services)
        self._write = services.access_log.write
        self._query = config.query

    def on_finish(self, exchange: Exchange) -> None:
        self._write(self._line(exchange))

    def _line(self, exchange: Exchange) -> dict[str, Any]:
        request, consumer = exchange.request, exchange.consumer
        path, question, query = request.target.partition("?")
        if question and not self._query:
            query = _QUERY_VALUE.sub("=", query)
        seconds = exchange.finished_at - exchange.started_at
        waited = exchange.upstream_headed_at - exchange.upstream_sent_at if exchange.upstream_headed_at else 0.0
        admitted = datetime.fromtimestamp(exchange.admitted_at / 1_000_000, UTC)
        return {
            "time": admitted.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "request_id": uuid_text(exchange.id),
            "client": request.client,
            "method": request.method,
            "host": request.host,
            "path": (path + question + query)[:_LONGEST],
            "route": exchange.route,
            "consumer": consumer.name if consumer is not None else None,
            "organization": consumer.organization if consumer is not None else None,
            "key": consumer.key if consumer is not None else None,
            "status": exchange.status_sent,
            "outcome": exchange.outcome,
            "bytes_in": exchange.bytes_in,
            "bytes_out": exchange.bytes_out,
            "duration_ms": round(seconds * 1000, 3),
            "upstream_ms": round(waited * 1000, 3),
            "gateway_ms": round((seconds - waited) * 1000, 3),
            "upstream": exchange.upstream or None,
            "user_agent": (request.headers.get("user-agent") or "")[:_LONGEST],
        }
