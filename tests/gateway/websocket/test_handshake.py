from __future__ import annotations

import pytest

from gateway.body import Body
from gateway.exchange import Request
from gateway.headers import Headers
from gateway.http1.response_head import Malformed
from gateway.problem import BadRequest, UpgradeRequired
from gateway.websocket.handshake import Handshake, WebSocketOptions, accept, ask
from tests.fixtures.frames import ACCEPT, KEY

OPTIONS = WebSocketOptions()
DEFLATE = "permessage-deflate; client_max_window_bits"


def asking(method: str = "GET", body: Body | None = None, **fields: str) -> Request:
    """A good handshake but for what is given; an empty field is left out."""
    fields = {"sec_websocket_version": "13", "sec_websocket_key": KEY.decode(), **fields}
    headers = Headers({name.replace("_", "-"): value for name, value in fields.items() if value})
    request = Request(method, "/", headers, body) if body is not None else Request(method, "/", headers)
    request.upgrade = ["websocket"]
    return request


def test_the_example_of_the_standard() -> None:
    assert accept(KEY.decode()).encode() == ACCEPT


def test_a_good_handshake_is_taken_up() -> None:
    request = asking(sec_websocket_protocol="chat, superchat")
    ask(request, OPTIONS)
    assert request.handshake == Handshake(KEY.decode(), OPTIONS)
    assert request.headers["sec-websocket-protocol"] == "chat, superchat"


def test_another_upgrade_is_none_of_ours() -> None:
    request = asking(sec_websocket_version="7")
    request.upgrade = ["h2c"]
    ask(request, OPTIONS)
    assert request.handshake is None


@pytest.mark.parametrize("key", ["", "x", KEY.decode() + "=", "dGhlIHNhbXBsZSBub25jZR==", f"{KEY.decode()}, x"])
def test_a_key_is_sixteen_bytes(key: str) -> None:
    with pytest.raises(BadRequest):
        ask(asking(sec_websocket_key=key), OPTIONS)


@pytest.mark.parametrize("version", ["", "8", "13, 8"])
def test_another_version_is_told_which_one_is_spoken(version: str) -> None:
    with pytest.raises(UpgradeRequired) as refusal:
        ask(asking(sec_websocket_version=version), OPTIONS)
    assert refusal.value.response().headers["sec-websocket-version"] == "13"


def test_only_a_get_without_a_body_begins_one() -> None:
    for request in (asking("POST"), asking(body=Body(length=1))):
        with pytest.raises(BadRequest):
            ask(request, OPTIONS)


@pytest.mark.parametrize(
    ("offered", "goes_on"),
    [(DEFLATE, DEFLATE), ("x-secret", None), (f"x-secret; a=b, {DEFLATE}, y", DEFLATE)],
    ids=["known", "unknown", "both"],
)
def test_only_extensions_that_are_known_are_offered(offered: str, goes_on: str | None) -> None:
    request = asking(sec_websocket_extensions=offered)
    ask(request, OPTIONS)
    assert request.headers.get("sec-websocket-extensions") == goes_on


@pytest.mark.parametrize(
    ("fields", "compressed"),
    [({}, False), ({"sec-websocket-extensions": "permessage-deflate; server_no_context_takeover"}, True)],
)
def test_an_upstream_that_has_understood(fields: dict[str, str], compressed: bool) -> None:
    answer = Headers({"sec-websocket-accept": ACCEPT.decode(), **fields})
    assert Handshake(KEY.decode(), OPTIONS).check(answer) is compressed


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"sec-websocket-accept": "x"},
        {"sec-websocket-accept": ACCEPT.decode(), "sec-websocket-extensions": "x-secret"},
        {"sec-websocket-accept": ACCEPT.decode(), "sec-websocket-extensions": "permessage-deflate, x-secret"},
    ],
    ids=["no accept", "a wrong accept", "an extension that is not known", "two extensions"],
)
def test_an_upstream_that_has_not(fields: dict[str, str]) -> None:
    with pytest.raises(Malformed):
        Handshake(KEY.decode(), OPTIONS).check(Headers(fields))
