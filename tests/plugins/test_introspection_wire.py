"""Authorization servers that are slow, broken, flooded or hard to reach: whom they do not vouch for is not let in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from time import monotonic
from typing import Any

import pytest

from gateway.exchange import Request, Response
from gateway.upstream.call import response_of
from plugins.introspection import Introspection
from tests.fixtures.authorization_server import AuthorizationServer, introspecting
from tests.fixtures.certificates import EXPIRED, Authority, authority, server_context
from tests.fixtures.conversation import serving
from tests.fixtures.wire import Target
from tests.play import Stage, ask

__all__ = ["authority"]

DOCUMENT = b'{"active":true,"sub":"anna","org":"acme"}'


def answer(document: bytes, status: str = "200 OK", *lines: bytes) -> bytes:
    fields = b"".join(line + b"\r\n" for line in lines)
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n%b\r\n%b" % (status.encode(), len(document), fields, document)


@asynccontextmanager
async def asking(stage: Stage, target: Target, tls: dict[str, Any] | None = None) -> AsyncIterator[Introspection]:
    """The plugin, asking this server through an upstream with these options about TLS."""
    async with serving(target, upstream={"tls": tls} if tls else {}) as login:

        async def forward(request: Request, _upstream: str) -> Response:
            return await response_of(lambda caller: login.upstream.call(request, caller))

        server = AuthorizationServer()
        server.forward = forward  # type: ignore[method-assign]
        yield introspecting(stage.services, server, timeout=0.5)


async def status(stage: Stage, plugin: Introspection, token: str = "good") -> int:
    return (await stage.play(plugin, request=ask(authorization=f"Bearer {token}"))).response.status


async def answered(stage: Stage, target: Target, tls: dict[str, Any] | None = None) -> int:
    async with asking(stage, target, tls) as plugin:
        return await status(stage, plugin)


NONSENSE: dict[str, tuple[bytes, int]] = {
    "active": (answer(DOCUMENT), 200),
    "not active": (answer(b'{"active":false}'), 401),
    "active as a text": (answer(DOCUMENT.replace(b"true", b'"true"')), 503),
    "active as a number": (answer(DOCUMENT.replace(b"true", b"1")), 503),
    "an error with an answer": (answer(DOCUMENT, "500 Oops"), 503),
    "elsewhere": (answer(DOCUMENT, "302 Found", b"Location: /elsewhere"), 503),
    "created": (answer(DOCUMENT, "201 Created"), 503),
    "huge": (answer(DOCUMENT + b" " * 200_000), 503),
    "not JSON": (answer(b"active"), 503),
    "a list": (answer(b"[" + DOCUMENT + b"]"), 503),
    "cut short": (answer(DOCUMENT)[:-9], 503),
    "compressed": (answer(b"\x1f\x8b" + DOCUMENT, "200 OK", b"Content-Encoding: gzip"), 503),
    "no HTTP": (b"hello\r\n\r\n", 503),
    "two lengths": (answer(DOCUMENT, "200 OK", b"Content-Length: 7"), 503),
    "nothing": (b"", 503),
}


@pytest.mark.parametrize(("said", "wanted"), list(NONSENSE.values()), ids=list(NONSENSE))
async def test_what_makes_no_sense_lets_nobody_in(stage: Stage, said: bytes, wanted: int):
    began = monotonic()
    assert await answered(stage, Target(answers=[said])) == wanted
    assert monotonic() - began < 2.0


async def test_an_authority_of_our_own_and_a_certificate_of_ours(stage: Stage, authority: Authority):
    shown = authority.issue("localhost", addresses=["127.0.0.1"])
    context = server_context(shown, clients=authority)
    tls = {"ca": str(authority.path), **authority.issue("gateway").upstream_options}

    def target() -> Target:
        return Target(answers=[answer(DOCUMENT)], tls=context)

    assert await answered(stage, target(), tls) == 200
    assert await answered(stage, target(), {"ca": str(authority.path)}) == 503
    assert await answered(stage, target()) == 503
    expired = authority.issue("expired", addresses=["127.0.0.1"], lifetime=EXPIRED)
    late = Target(answers=[answer(DOCUMENT)], tls=server_context(expired))
    assert await answered(stage, late, {"ca": str(authority.path)}) == 503


async def test_a_flood_of_invented_tokens_keeps_out_nobody_who_is_known(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, later = AuthorizationServer(), 0.0
    server.tokens["good"] = {"active": True, "sub": "anna", "org": "acme"}
    now: Callable[[], float] = stage.clock.monotonic
    monkeypatch.setattr(stage.clock, "monotonic", lambda: now() + later)
    services = replace(stage.services, clock=stage.clock)
    plugin = introspecting(services, server, max_in_flight=8, cache={"active": 60.0, "max_staleness": 600.0})
    assert await status(stage, plugin) == 200
    server.open.clear()
    flood = [asyncio.create_task(status(stage, plugin, f"t{n}")) for n in range(20)]
    while len(server.asked) < 9:  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0.005)
    assert await status(stage, plugin) == 200
    later = 61.0  # it is to be asked about again, and there is no room to
    assert await status(stage, plugin) == 200
    assert await status(stage, plugin, "new") == 503
    server.open.set()
    assert sorted(await asyncio.gather(*flood)) == [401] * 8 + [503] * 12
