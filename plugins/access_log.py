"""Write one JSON line per request: who asked for what, what came of it, and where the time went."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

import msgspec

from gateway.clock import uuid_text
from gateway.exchange import Exchange, Outcome
from gateway.plugin import Plugin, PluginConfig
from gateway.services import Services

_QUERY_VALUE: Final = re.compile(r"=[^&]*")
_LONGEST: Final = 512


class Config(PluginConfig):
    """What a line may say."""

    query: bool = False
    """Log the values of query parameters too; they may be secrets, so by default only their names are kept."""


class Line(msgspec.Struct):
    """One request, as `AccessLog` says what it means."""

    time: str
    request_id: str
    client: str
    method: str
    host: str
    path: str
    route: str
    consumer: str | None
    organization: str | None
    key: str | None
    status: int
    outcome: Outcome
    bytes_in: int
    bytes_out: int
    duration_ms: float
    upstream_ms: float
    body_ms: float
    gateway_ms: float
    upstream: str | None
    user_agent: str
    wanted: str | None
    allowed: bool | None
    because: str | None


class AccessLog(Plugin[Config]):
    """A line has `time`, `request_id`, `client`, `method`, `host`, `path`, `route`, `consumer`, `organization`, `key`,
    `status`, `outcome`, `bytes_in`, `bytes_out`, `upstream` and `user_agent`; what is not known, or does not apply, is
    null.

    Of `duration_ms`, `upstream_ms` is from the beginning of the call upstream to the head of its response, the body of
    the request included; `body_ms` is how long the body of the response then took, as fast as the upstream sends it and
    the client takes it; `gateway_ms` is all the rest. `wanted`, `allowed` and `because` are what authorization decided,
    where it refused or is to say why it did not; of a token that was refused (401) `because` says why, as its caller
    is not told.

    Lines are handed to a sink that never makes a request wait; what it cannot take is dropped and counted.
    """

    def __init__(self, config: Config, services: Services) -> None:
        super().__init__(config, services)
        self._write = services.access_log.write
        self._query = config.query
        self._second = 0
        self._second_text = ""

    def on_finish(self, exchange: Exchange) -> None:
        request, consumer, decision = exchange.request, exchange.consumer, exchange.decision
        path = request.target
        if "?" in path and not self._query:
            path, _, query = path.partition("?")
            path = f"{path}?{_QUERY_VALUE.sub('=', query)}"
        # Whole microseconds, because rounding costs more than all else here.
        finished = exchange.finished_at
        micros = int((finished - exchange.started_at) * 1_000_000)
        waited = passed_on = 0
        if exchange.upstream_sent_at:
            headed = exchange.upstream_headed_at or finished
            waited = int((headed - exchange.upstream_sent_at) * 1_000_000)
            passed_on = int((finished - headed) * 1_000_000)
        self._write(
            Line(
                self._time(exchange.admitted_at),
                uuid_text(exchange.id),
                request.client,
                request.method,
                request.host,
                path[:_LONGEST],
                exchange.route,
                consumer.name if consumer is not None else None,
                consumer.organization if consumer is not None else None,
                consumer.key if consumer is not None else None,
                exchange.status_sent,
                exchange.outcome,
                exchange.bytes_in,
                exchange.bytes_out,
                micros / 1000,
                waited / 1000,
                passed_on / 1000,
                (micros - waited - passed_on) / 1000,
                exchange.upstream or None,
                (request.headers.get("user-agent") or "")[:_LONGEST],
                decision.wanted if decision is not None else None,
                decision.allowed if decision is not None else None,
                decision.because[:_LONGEST] if decision is not None else exchange.refused or None,
            )
        )

    def _time(self, micros: int) -> str:
        """RFC 3339, UTC, to the millisecond."""
        second, rest = divmod(micros, 1_000_000)
        if second != self._second:
            self._second = second
            self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._second_text}.{rest // 1000:03d}Z"
