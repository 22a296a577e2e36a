"""Traffic: what every exchange adds to the metrics, whatever plugins its route has."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.exchange import Exchange
from gateway.metrics import SECONDS, SERIES_PER_FAMILY, Counter, Histogram, Metrics


class _RouteTraffic:
    """The cells of one route, looked up when its first request ends so that counting needs no look-up of labels."""

    __slots__ = ("by_status", "bytes_in", "bytes_out", "seconds", "upstream_seconds")

    def __init__(self, bytes_in: Counter, bytes_out: Counter, seconds: Histogram, upstream_seconds: Histogram) -> None:
        self.bytes_in = bytes_in.cell
        self.bytes_out = bytes_out.cell
        self.seconds = seconds.cell
        self.upstream_seconds = upstream_seconds.cell
        self.by_status: dict[int, int] = {}


class Traffic:
    """Counts finished exchanges by route and status, their bytes, and where their time went."""

    def __init__(self, metrics: Metrics) -> None:
        self._numbers = metrics.numbers
        self._requests = metrics.counter(
            "tallygate_requests_total",
            "Requests answered; status 0 if the client left before an answer.",
            ("route", "status"),
        )
        self._bytes_in = metrics.counter(
            "tallygate_request_bytes_total", "Payload bytes received from clients.", ("route",)
        )
        self._bytes_out = metrics.counter(
            "tallygate_response_bytes_total", "Payload bytes handed to clients.", ("route",)
        )
        self._seconds = metrics.histogram(
            "tallygate_request_seconds", "From the request's head to the response's last byte.", ("route",)
        )
        self._upstream_seconds = metrics.histogram(
            "tallygate_upstream_seconds", "From calling the upstream to the head of its response.", ("route",)
        )
        self._websockets = metrics.gauge("tallygate_websockets", "Open WebSockets.", ("route",))
        self._messages = metrics.counter(
            "tallygate_websocket_messages_total",
            "Messages of WebSockets that have ended; `in` is from clients.",
            ("route", "direction"),
        )
        self._routes: dict[str, _RouteTraffic] = {}

    def count(self, exchange: Exchange) -> None:
        """An exchange is over. Every request comes here: the numbers are counted in place, without a call for each."""
        numbers = self._numbers
        series = self._routes.get(exchange.route) or self._bind(exchange.route)
        requests = series.by_status.get(exchange.status_sent)
        if requests is None:
            requests = self._bind_status(series, exchange)
        numbers[requests] += 1.0
        cell, seconds = series.seconds, exchange.finished_at - exchange.started_at
        numbers[cell + 1 + bisect_left(SECONDS, seconds)] += 1.0
        numbers[cell] += seconds
        if exchange.upstream_headed_at:
            cell, seconds = series.upstream_seconds, exchange.upstream_headed_at - exchange.upstream_sent_at
            numbers[cell + 1 + bisect_left(SECONDS, seconds)] += 1.0
            numbers[cell] += seconds
        if exchange.bytes_out:
            numbers[series.bytes_out] += exchange.bytes_out
        received = exchange.request.body.received
        if received:
            numbers[series.bytes_in] += received

    @contextmanager
    def websocket(self, exchange: Exchange) -> Iterator[None]:
        """An exchange that is a WebSocket for as long as this is entered."""
        series = self._websockets.labels(exchange.route)
        series.inc()
        try:
            yield
        finally:
            series.inc(-1)
            self._messages.labels(exchange.route, "in").inc(exchange.messages_in)
            self._messages.labels(exchange.route, "out").inc(exchange.messages_out)

    def _bind(self, route: str) -> _RouteTraffic:
        if len(self._routes) >= SERIES_PER_FAMILY:
            self._routes.clear()  # of routes that reloads have taken away; the others come back
        series = self._routes[route] = _RouteTraffic(
            self._bytes_in.labels(route),
            self._bytes_out.labels(route),
            self._seconds.labels(route),
            self._upstream_seconds.labels(route),
        )
        return series

    def _bind_status(self, series: _RouteTraffic, exchange: Exchange) -> int:
        status = exchange.status_sent
        cell = series.by_status[status] = self._requests.labels(exchange.route, str(status)).cell
        return cell
