"""A listener that sends its clients to HTTPS: which status, where to, and who is served after all."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from tests.fixtures.conversation import calling, serving
from tests.fixtures.secure_conversation import counted
from tests.fixtures.wire import Alone, Edge, Target


class Watching(Alone):
    """Keeps the targets of the requests that come to it."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_request(self, exchange: object) -> None:
        self.seen.append(exchange.request.target)  # type: ignore[attr-defined]


async def answer(edge: Edge, sent: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """Status line and fields."""
    async with calling(edge) as client:
        await client.say(sent)
        start, *fields = (await client.answer()).partition(b"\r\n\r\n")[0].split(b"\r\n")
    return start, dict(field.lower().split(b": ", 1) for field in fields)


@pytest.mark.parametrize(
    ("to", "host", "target", "location"),
    [
        (True, b"example.com", b"/", b"https://example.com/"),
        (True, b"example.com:8080", b"/a/b?c=d%20e", b"https://example.com/a/b?c=d%20e"),
        (8443, b"example.com", b"/", b"https://example.com:8443/"),
        (8443, b"[::1]:8080", b"/", b"https://[::1]:8443/"),
        (443, b"[::1]", b"//elsewhere.example/", b"https://[::1]//elsewhere.example/"),
        (True, b"ignored", b"http://example.com:80/x", b"https://example.com/x"),
    ],
)
async def test_a_client_is_sent_to_the_same_address(
    to: bool | int, host: bytes, target: bytes, location: bytes
) -> None:
    watching = Watching()
    async with serving(Target(), watching, redirect_to_https=to) as edge:
        start, fields = await answer(edge, b"GET " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
        assert start == b"HTTP/1.1 301 Moved Permanently"
        assert fields[b"location"] == location
        assert fields[b"content-length"] == b"0"
        assert b"date" in fields
        assert watching.seen == []
        assert edge.target.heard == []
        assert counted(edge, "tallygate_requests_total", route="-", status="301") == 1


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"])
async def test_a_method_that_is_not_get_is_kept(method: bytes) -> None:
    """A client may turn POST into GET after 301, not after 308 (RFC 9110 §15.4)."""
    async with serving(Target(), redirect_to_https=True) as edge, calling(edge) as client:
        await client.say(method + b" /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
        back = await client.rest()
        assert back.startswith(b"HTTP/1.1 308 Permanent Redirect\r\n")
        assert b"\r\nLocation: https://a/x\r\n" in back
        assert back.count(b"HTTP/1.1") == 1


async def test_a_client_may_ask_again_on_the_same_connection() -> None:
    async with serving(Target(), redirect_to_https=True) as edge, calling(edge) as client:
        for path in (b"/one", b"/two"):
            await client.say(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"https://a" + path + b"\r\n" in await client.answer()


async def test_without_a_host_there_is_nowhere_to_go() -> None:
    async with serving(Target(), redirect_to_https=True) as edge:
        start, fields = await answer(edge, b"GET / HTTP/1.0\r\n\r\n")
        assert start == b"HTTP/1.1 400 Bad Request"
        assert fields[b"content-type"] == b"application/problem+json"
        assert b"location" not in fields


async def test_the_server_as_a_whole_has_no_address() -> None:
    async with serving(Target(), redirect_to_https=True) as edge:
        start, fields = await answer(edge, b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
        assert start == b"HTTP/1.1 204 No Content"
        assert b"location" not in fields


@pytest.mark.parametrize(
    ("trusted", "claim", "served"),
    [
        ("127.0.0.1", b"X-Forwarded-Proto: https\r\n", True),
        ("127.0.0.1", b"X-Forwarded-Proto: http\r\n", False),
        ("127.0.0.1", b"", False),
        ("10.0.0.1", b"X-Forwarded-Proto: https\r\n", False),
    ],
)
async def test_who_came_to_a_trusted_proxy_by_https_is_served(trusted: str, claim: bytes, served: bool) -> None:
    """Sent to https, the client would come by the same proxy again, and again."""
    async with serving(Target(), redirect_to_https=True, trusted=[ip_network(trusted)]) as edge:
        start, _ = await answer(edge, b"GET / HTTP/1.1\r\nHost: a\r\n" + claim + b"\r\n")
        assert start.startswith(b"HTTP/1.1 200 " if served else b"HTTP/1.1 301 ")
