"""Traffic: what every exchange adds to the metrics, whatever plugins its route has."""

from __future__ import annotations

from gateway.exchange import Exchange
from gateway.metrics import Counter, Histogram, Metrics


class _RouteTraffic:
    """The series of one route, bound when its first request ends so that counting needs no label look-up."""

    __slots__ = ("by_status", "bytes_in", "bytes_out", "gateway_seconds", "upstream_seconds")

    def __init__(self, bytes_in: Counter, bytes_out: Counter, gateway_seconds: Histogram, upstream_seconds: Histogram):
        self.bytes_in = bytes_in
        self.bytes_out = bytes_out
        self.gateway_seconds = gateway_seconds
        self.upstream_seconds = upstream_seconds
        self.by_status: dict[int, Counter] = {}


class Traffic:
    """Counts finished exchanges by route and status, their bytes, and where their time went."""

    def __init__(self, metrics: Metrics) -> None:
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
        self._routes: dict[str, _RouteTraffic] = {}

    def count(self, exchange: Exchange) -> None:
        """An exchange is over."""
        route = exchange.route
        series = self._routes.get(route)
        if series is None:
            series = self._routes[route] = _RouteTraffic(
                self._bytes_in.labels(route),
                self._bytes_out.labels(route),
                self._seconds.labels(route),
                self._upstream_seconds.labels(route),
            )
        counter = series.by_status.get(exchange.status_sent)
        if counter is None:
            status = exchange.status_sent
            counter = series.by_status[status] = self._requests.labels(route, str(status))
        counter.inc()
        series.gateway_seconds.observe(exchange.finished_at - exchange.started_at)
        if exchange.upstream_headed_at:
            series.upstream_seconds.observe(exchange.upstream_headed_at - exchange.upstream_sent_at)
        if exchange.bytes_out:
            series.bytes_out.inc(exchange.bytes_out)
        received = exchange.request.body.received
        if received:
            series.bytes_in.inc(received)
