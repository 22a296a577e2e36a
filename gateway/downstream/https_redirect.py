"""HTTPS redirect: what a listener without TLS answers whose clients belong on another one, with TLS."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from gateway.chain import Chain
from gateway.downstream.delivery import Delivery
from gateway.downstream.serving import Client, Serving
from gateway.exchange import Exchange, Response
from gateway.problem import BadRequest
from gateway.route import Unmatched
from gateway.router import Router

if TYPE_CHECKING:
    from gateway.upstream.call import Caller

_PORT: Final = re.compile(r":\d*$")


class HttpsRedirect:
    """Serves a listener: clients are sent to the same address with https, whatever it is.

    Requests that a trusted proxy has received by https are served; they would come back again and again.
    """

    def __init__(self, port: int, delivery: Delivery) -> None:
        self._delivery = delivery
        self._redirecting = Delivery(Router([]), _ToHttps(port), traffic=delivery.traffic, clock=delivery.clock)

    def begin(self, exchange: Exchange, client: Client) -> Serving:
        """As `Delivery.begin`."""
        delivery = self._delivery if exchange.request.scheme == "https" else self._redirecting
        return delivery.begin(exchange, client)


class _ToHttps(Unmatched):
    """No route, and no plugin: a credential that was sent in the clear is not looked at."""

    def __init__(self, port: int) -> None:
        super().__init__(Chain([]))
        self._port = "" if port == 443 else f":{port}"

    def forward(self, exchange: Exchange, caller: Caller) -> None:
        request = exchange.request
        if request.target == "*":  # OPTIONS of the server as a whole, which has no address
            caller.answered(Response(204))
        elif not request.host:
            caller.failed(BadRequest("This port sends to HTTPS, and the request does not say which host it is for."))
        else:
            location = f"https://{_PORT.sub('', request.host)}{self._port}{request.target}"
            # Both are for good. After 301 a POST may be repeated as GET (RFC 9110 §15.4.2), after 308 not; 301 is what
            # the oldest clients know.
            status = 301 if request.method in ("GET", "HEAD") else 308
            caller.answered(Response(status, {"Location": location}))
