"""Delivery: where requests come in from the listeners; each finds its route and is served."""

from __future__ import annotations

from asyncio import get_running_loop

from gateway.clock import Clock
from gateway.downstream.serving import Client, Serving
from gateway.downstream.shedding import Shedding
from gateway.downstream.traffic import Traffic
from gateway.exchange import Exchange
from gateway.problem import Problem
from gateway.route import WHY_UNMATCHED, Route, Unmatched
from gateway.router import Router


class Delivery:
    """Serves exchanges, one call each."""

    def __init__(
        self, router: Router, unmatched: Unmatched, *, traffic: Traffic, clock: Clock, shedding: Shedding | None = None
    ) -> None:
        self._router = router
        self._unmatched = unmatched
        self._shedding = shedding
        self.traffic = traffic
        self.clock = clock
        self.loop = get_running_loop()

    def begin(self, exchange: Exchange, client: Client) -> Serving:
        """Find the route and begin to serve; what never has to wait may be over when this returns."""
        route: Route | Unmatched = self._unmatched
        try:
            route, exchange.parameters = self._router.find(exchange.request)
        except Problem as no_route:
            exchange[WHY_UNMATCHED] = no_route
        exchange.route = route.name
        exchange.on_disconnect = route.on_disconnect
        body = exchange.request.body
        if body.length != 0:
            body.limit = route.max_body
            if (body.length or body.received) > body.limit:
                body.refuse()
        serving = Serving(exchange, client, route, self)
        shedding = self._shedding
        if shedding is not None and shedding.share and route.sheddable and shedding.refuses():
            serving.failed(shedding.problem())  # before any plugin has seen it: a refusal must cost next to nothing
        else:
            serving.begin()
        return serving
