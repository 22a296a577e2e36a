"""Circuits of a route's own: its failures open them for nobody else, and they go on over a reload."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.config.composition import ConfigError
from tests.fixtures.configuration import HEAD, here, loaded
from tests.fixtures.gateway import Gateway, gateway_before
from tests.fixtures.wire import OK, Target

__all__ = ["here"]

BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"
BREAKER = "minimum_requests: 2, recovery_timeout: 300ms, half_open_requests: 1"
TEXT = """\
upstreams: {{u: {{targets: ["<u>"]{upstream}}}}}
routes:
  - {{name: shaky, match: {{path: /shaky}}, upstream: u, plugins: [circuit_breaker: {{{shaky}}}]}}
  - {{name: rest, upstream: u{rest}}}
"""


def text(shaky: str = BREAKER, rest: str = "", upstream: str = "") -> str:
    return TEXT.format(shaky=shaky, rest=rest, upstream=upstream)


def shaky_fails(heard: bytes) -> bytes:
    return BUSY if heard.rpartition(b"GET ")[2].startswith(b"/shaky") else OK


async def ask(gateway: Gateway, *paths: str) -> list[int]:
    return [await gateway.status(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()) for path in paths]


async def circuit(gateway: Gateway, path: str) -> str:
    answer = await gateway.answer(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    return "open" if b"/problems/circuit-open" in answer else "closed"


@pytest.mark.parametrize("upstream", ["", f", circuit_breaker: {{{BREAKER}}}"])
async def test_its_failures_open_its_circuit_and_nobody_elses(here: Path, upstream: str) -> None:
    async with gateway_before(here / "j", text(upstream=upstream), u=Target([shaky_fails])) as gateway:
        assert await ask(gateway, "/shaky", "/shaky") == [503, 503]
        assert [await circuit(gateway, path) for path in ("/shaky", "/")] == ["open", "closed"]
        assert gateway.counted("tallygate_breaker_state", "u", "all", "shaky") == 2
        assert len(gateway.runtime.upstreams) == 1, "connections and health are the same"


async def test_two_routes_with_equal_options_have_two_circuits(here: Path) -> None:
    both = text(rest=f", plugins: [circuit_breaker: {{{BREAKER}}}]")
    async with gateway_before(here / "j", both, u=Target([shaky_fails])) as gateway:
        await ask(gateway, "/shaky", "/shaky")
        assert [await circuit(gateway, path) for path in ("/shaky", "/")] == ["open", "closed"]


async def test_it_recovers(here: Path) -> None:
    async with gateway_before(here / "j", text(), u=Target([BUSY, BUSY, OK])) as gateway:
        await ask(gateway, "/shaky", "/shaky")
        assert await circuit(gateway, "/shaky") == "open"
        async with asyncio.timeout(5):
            while await circuit(gateway, "/shaky") == "open":
                pass
        assert await ask(gateway, "/shaky") == [200]


async def test_it_goes_on_over_a_reload_until_its_options_change(here: Path) -> None:
    patient = BREAKER.replace("300ms", "60s")
    async with gateway_before(here / "j", text(patient), u=Target([shaky_fails])) as gateway:
        await ask(gateway, "/shaky", "/shaky")
        await gateway.take(text(patient, upstream=", max_connections: 9"))
        assert await circuit(gateway, "/shaky") == "open"
        await gateway.take(text(f"{patient}, window: 31s"))
        assert await circuit(gateway, "/shaky") == "closed"


async def test_a_fallback_is_called_through_a_circuit_as_well(here: Path) -> None:
    fallback = "  two: {targets: ['<two>']}\n"
    written = text().replace("upstreams: {u:", "upstreams:\n  u:", 1).replace("]}}\n", "]}\n" + fallback, 1)
    written = written.replace("upstream: u, plugins", "upstream: u, fallback: {upstream: two}, plugins", 1)
    async with gateway_before(here / "j", written, u=Target([BUSY]), two=Target([BUSY])) as gateway:
        assert await ask(gateway, "/shaky", "/shaky") == [503, 503]
        assert await circuit(gateway, "/shaky") == "open", "both are given time"
        assert gateway.counted("tallygate_breaker_state", "two", "all", "shaky") == 2


async def test_it_costs_a_request_nothing(here: Path) -> None:
    async with gateway_before(here / "j", text(), u=Target()) as gateway:
        plugin = gateway.runtime._plugins["shaky", "circuit_breaker"].plugin
        assert plugin.hooks(plugin.config) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("recovery_timeout: 0s", "must be greater than 0s"),
        ("failure_threshold: 200%", "must be at most 100%"),
        ("on: []", "needs at least 1 item"),
        ("minimum_request: 2", 'unknown key "minimum_request" (did you mean "minimum_requests"?)'),
    ],
)
def test_what_cannot_be(here: Path, options: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r"gateway.yaml:3: routes\[0\].plugins.circuit_breaker") as refused:
        loaded(f"{HEAD}routes: [{{name: a, upstream: demo, plugins: [circuit_breaker: {{{options}}}]}}]\n")
    assert said in str(refused.value)
