"""Report: what an operator is told of an upstream and its targets."""

from __future__ import annotations

import asyncio
import contextlib

from gateway.exchange import Request
from gateway.headers import Headers
from gateway.upstream.call import response_of
from gateway.upstream.report import report_of
from gateway.upstream.upstream import Upstream
from tests.fixtures.upstream import OK, calling


def ask(upstream: Upstream) -> asyncio.Task[object]:
    request = Request("GET", "/", Headers())
    return asyncio.create_task(response_of(lambda caller: upstream.call(request, caller)))


async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers each request a moment later, until the other side leaves."""
    with contextlib.suppress(asyncio.IncompleteReadError):
        while await reader.readuntil(b"\r\n\r\n"):
            await asyncio.sleep(0.05)
            writer.write(OK)


async def dropped(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Closes each connection instead of answering."""
    await reader.readuntil(b"\r\n\r\n")


async def test_calls_under_way_and_how_long_the_last_ones_took() -> None:
    async with calling(slowly) as upstream:
        calls = [ask(upstream) for _ in range(3)]
        await asyncio.sleep(0.03)
        (target,) = report_of(upstream).targets
        assert (target.health, target.in_flight, target.latency_seconds, target.breaker) == ("unknown", 3, None, None)
        await asyncio.gather(*calls)
        (target,) = report_of(upstream).targets
        assert target.in_flight == 0
        assert target.latency_seconds is not None
        assert 0.04 < target.latency_seconds < 1.0


async def test_circuits_and_ejections() -> None:
    circuit = {"minimum_requests": 2, "window": 30.0}
    health = {"passive": {"failures": 2, "max_ejected": 1.0}, "panic_threshold": 0.5}
    async with calling(dropped, circuit_breaker=circuit, health=health) as upstream:
        assert report_of(upstream).targets[0].breaker is None
        for _ in range(2):
            await asyncio.wait({failing := ask(upstream)})
            assert failing.exception() is not None
        report = report_of(upstream)
        assert (report.breaker, report.panics) == ("open", True)
        (target,) = report.targets
        assert (target.health, target.reason, target.breaker) == ("ejected", "failures in a row", "open")


async def test_what_began_before_a_reload_is_counted_with_what_is_served_now() -> None:
    async with calling(slowly) as before, calling(slowly) as other:
        call = ask(before)
        await asyncio.sleep(0.03)
        assert report_of(before, [other]).targets[0].in_flight == 1
        assert report_of(other, [before]).targets[0].in_flight == 0, "that is another target"
        await call
