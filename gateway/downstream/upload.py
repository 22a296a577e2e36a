"""Upload: a request's body on its way in: when its client is invited to send it, and how slow it may be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.pace import Inflow
from gateway.problem import RequestTimeout

if TYPE_CHECKING:
    from gateway.downstream.client_connection import ClientConnection
    from gateway.exchange import Exchange, Request


class Upload:
    """The Source of the bodies of one connection's requests, of those that did not arrive with their head."""

    __slots__ = ("_connection", "_held", "_inflow", "_invited", "_minimum_rate")

    def __init__(self, connection: ClientConnection, minimum_rate: int) -> None:
        self._connection = connection
        self._minimum_rate = minimum_rate
        self._inflow: Inflow | None = None  # measured from the next look on
        self._invited = True
        self._held = False  # we do not read because the body's reader is slow

    def begin(self, request: Request) -> None:
        """This request's body is still to come."""
        self._invited = not request.expects_continue
        self._inflow = None

    def invites(self) -> bool:
        """Whether the client waits for 100 (Continue), which is about to be said; then it waits no more."""
        waits, self._invited = not self._invited, True
        if waits:
            self._inflow = None
        return waits

    def check(self, exchange: Exchange, now: float) -> None:
        """Fail a body that comes too slowly, unless it is we who hold it, or its client waits to be invited."""
        if self._held or (not self._invited and not exchange.bytes_in):
            return
        if self._inflow is None:
            self._inflow = Inflow(exchange.bytes_in, now)
        elif self._inflow.too_slow(exchange.bytes_in, now, self._minimum_rate):
            exchange.request.body.fail(RequestTimeout("The request's body arrived too slowly."))

    # The Source of a request's body

    def invite_body(self) -> None:
        """Tell a client that waits for it to send its body (RFC 9110 §10.1.1)."""
        self._connection.inform(100, [])

    def pause_body(self) -> None:
        self._held = True
        self._connection.pause_reading()

    def resume_body(self) -> None:
        self._held = False
        self._inflow = None
        self._connection.resume_reading()

    def abandon_body(self) -> None:
        """The rest of the request's body is of no interest: it is not read, and the connection ends with the answer."""
        self._connection.keep_alive = False
