"""Handshake: how a request becomes a WebSocket, checked on both sides (RFC 6455 §4)."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha1
from typing import Final, NamedTuple

from pydantic import Field

from gateway.exchange import Request
from gateway.headers import Headers
from gateway.http1.response_head import Malformed
from gateway.options import Duration, Options, Size
from gateway.problem import BadRequest, UpgradeRequired

_KEY: Final = re.compile(r"[+/0-9A-Za-z]{21}[AQgw]==")
"""Sixteen bytes in base64."""
_GUID: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_COMPRESSION: Final = "permessage-deflate"


class WebSocketOptions(Options):
    """What client and upstream may say to each other once a request has become a WebSocket."""

    max_message: Size = Field(default=16 * 2**20, gt=0)
    """Largest message either way, compressed if it comes so; a larger one ends the session with code 1009."""
    idle_timeout: Duration = Field(default=300.0, gt=0)
    """Neither side says anything, not even a ping, or one takes nothing of what it is told: ended with code 1001."""


class Handshake(NamedTuple):
    """What a client has asked for: the upstream proves with the key that it has understood."""

    key: str
    options: WebSocketOptions

    def check(self, answer: Headers) -> bool:
        """Whether messages may be compressed, as the upstream's 101 says. Raises Malformed if it is not valid."""
        if answer.getall("sec-websocket-accept") != [accept(self.key)]:
            raise Malformed("its handshake does not answer ours")
        agreed = _names(answer)
        if agreed not in ([], [_COMPRESSION]):
            raise Malformed("it agreed on an extension that was not offered")
        return bool(agreed)


def accept(key: str) -> str:
    """The Sec-WebSocket-Accept that answers a key."""
    return b64encode(sha1((key + _GUID).encode("ascii"), usedforsecurity=False).digest()).decode("ascii")


def ask(request: Request, options: WebSocketOptions) -> None:
    """Let a request that asks for a WebSocket ask its upstream for one. Raises BadRequest, UpgradeRequired.

    Extensions that are not known here are not offered: what they do to frames nobody could check.
    """
    if "websocket" not in request.upgrade:
        return
    headers = request.headers
    if request.method != "GET" or request.body.length != 0:
        raise BadRequest("A WebSocket begins with a GET without a body.")
    if headers.getall("sec-websocket-version") != ["13"]:
        raise UpgradeRequired(headers={"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"})
    keys = headers.getall("sec-websocket-key")
    if len(keys) != 1 or not _KEY.fullmatch(keys[0]):
        raise BadRequest("Sec-WebSocket-Key is not one key of sixteen bytes.")
    request.handshake = Handshake(keys[0], options)
    if set(_names(headers)) - {_COMPRESSION}:
        known = [offer for offer in _offers(headers) if _name(offer) == _COMPRESSION]
        del headers["sec-websocket-extensions"]
        if known:
            headers["Sec-WebSocket-Extensions"] = ", ".join(known)


def _offers(headers: Headers) -> list[str]:
    """The extensions of a message, each with its parameters (RFC 6455 §9.1); those we know have no quoted commas."""
    members = ",".join(headers.getall("sec-websocket-extensions")).split(",")
    return [member.strip() for member in members if member.strip()]


def _name(offer: str) -> str:
    return offer.partition(";")[0].strip().lower()


def _names(headers: Headers) -> list[str]:
    return list(map(_name, _offers(headers)))
