"""Sticky clients: who has the cookie comes back to its target, over reloads too, and moves only when it must."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fixtures.gateway import ASK, Gateway, gateway_before
from tests.fixtures.wire import Target

OPTIONS = (
    "sticky: {cookie: stay, secure: false, salt: pepper}, health: {passive: {failures: 1, ejection: 60s}}, retry: {}"
)


def configuration(*targets: str, more: str = "") -> str:
    listed = ", ".join(f'"<{name}>"' for name in targets)
    return f"upstreams: {{u: {{targets: [{listed}], {OPTIONS}{more}}}}}\nroutes: [{{name: r, upstream: u}}]\n"


def saying(name: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: 1\r\n\r\n%b" % (status, name)


@pytest.fixture
async def gateway(here: Path) -> AsyncIterator[Gateway]:
    targets = {name: Target([saying(name.encode())]) for name in ("a", "b", "c")}
    async with gateway_before(here / "journal", configuration("a", "b", "c"), **targets) as gateway:
        yield gateway


async def visit(gateway: Gateway, cookie: bytes = b"") -> tuple[bytes, bytes]:
    """Who answered, and the cookie that the client has now."""
    answer = await gateway.answer(ASK[:-2] + (b"Cookie: %b\r\n\r\n" % cookie if cookie else b"\r\n"))
    given = re.findall(rb"(?i)\r\nset-cookie: ([^;]+)", answer)
    assert len(given) <= 1
    return answer[-1:], given[0] if given else cookie


async def test_a_client_comes_back_to_its_target_over_reloads(gateway: Gateway) -> None:
    clients = [await visit(gateway) for _ in range(6)]
    assert {name for name, _ in clients} == {b"a", b"b", b"c"}, "new clients are spread by the balancer"
    await gateway.take(configuration("c", "b", "a", more=", max_connections: 9"))
    for name, cookie in clients:
        assert [await visit(gateway, cookie) for _ in range(3)] == [(name, cookie)] * 3


async def test_a_client_whose_target_is_gone_gets_another_and_stays_there(gateway: Gateway) -> None:
    name, cookie = await visit(gateway)
    await gateway.take(configuration(*({"a", "b", "c"} - {name.decode()})))
    other, moved = await visit(gateway, cookie)
    assert (other != name, moved != cookie) == (True, True)
    assert [await visit(gateway, moved) for _ in range(3)] == [(other, moved)] * 3


async def test_a_target_that_is_drained_keeps_its_clients(gateway: Gateway) -> None:
    name, cookie = await visit(gateway)
    drained = configuration("a", "b", "c").replace(f'"<{name.decode()}>"', f'{{url: "<{name.decode()}>", weight: 0}}')
    await gateway.take(drained)
    assert await visit(gateway, cookie) == (name, cookie)
    assert name not in {(await visit(gateway))[0] for _ in range(6)}


async def test_a_failure_moves_a_client_and_binds_nobody(here: Path) -> None:
    failing = Target([saying(b"a"), saying(b"a", b"503 No")])
    targets = {"a": failing, "b": Target([saying(b"b")])}
    async with gateway_before(here / "journal", configuration("a", "b"), **targets) as gateway:
        cookies = dict([await visit(gateway), await visit(gateway)])
        assert await visit(gateway, cookies[b"a"]) == (b"b", cookies[b"b"]), "what failed is repeated elsewhere"
    lonely = configuration("a").replace("retry: {}", "max_waiting: 9")
    async with gateway_before(here / "other", lonely, a=Target([saying(b"a", b"503 No")])) as gateway:
        assert await visit(gateway) == (b"a", b"")
