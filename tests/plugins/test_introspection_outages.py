"""Introspection while its issuer does not answer, hangs, or says what makes no sense."""

from __future__ import annotations

import asyncio

import pytest

from gateway.services import Services
from tests.fixtures.authorization_server import (
    ACTIVE,
    AuthorizationServer,
    Hands,
    bearing,
    hands,
    made,
    server,
    services,
    status,
)
from tests.play import Stage

__all__ = ["hands", "server", "services"]


async def test_nobody_answers(stage: Stage, services: Services, server: AuthorizationServer, hands: Hands):
    plugin = made(services, cache={"active": "1m", "max_staleness": "10m"})
    await status(stage, plugin)
    server.down = True
    hands.seconds += 300
    assert await status(stage, plugin) == 200  # known, and stale
    played = await stage.play(plugin, request=bearing("unknown"))
    assert (played.response.status, played.response.headers["retry-after"]) == (503, "1")
    assert b"issuer-down" in played.body
    hands.seconds += 400
    assert await status(stage, plugin) == 503  # too stale
    server.down = False
    assert await status(stage, plugin) == 503  # it is left in peace for a second
    hands.seconds += 1.1
    assert await status(stage, plugin) == 200


async def test_it_is_not_asked_again_at_once(stage: Stage, services: Services, server: AuthorizationServer):
    plugin = made(services)
    server.down = True
    assert [await status(stage, plugin, f"t{n}") for n in range(5)] == [503] * 5
    assert len(server.asked) == 1


async def test_one_that_hangs_costs_its_timeout(
    stage: Stage, services: Services, server: AuthorizationServer, caplog: pytest.LogCaptureFixture
):
    server.open.clear()
    plugin = made(services, timeout="50ms")
    assert await asyncio.wait_for(status(stage, plugin), 1.0) == 503
    assert "introspection at upstream login: no answer within 0.05 s" in caplog.text
    assert await status(stage, plugin, "other") == 503
    assert server.asked == ["good"]  # nobody else waits as long for nothing


async def test_a_token_that_it_cannot_cope_with_is_no_harm_to_others(
    stage: Stage, services: Services, server: AuthorizationServer, hands: Hands
):
    plugin = made(services, timeout="100ms")
    server.hangs_on.add("poison")
    waiting = asyncio.create_task(status(stage, plugin, "poison"))
    await asyncio.sleep(0.01)
    hands.seconds += 0.01
    assert await status(stage, plugin) == 200
    assert await waiting == 503
    assert await status(stage, plugin, "another") == 401
    assert server.asked == ["poison", "good", "another"]


async def test_how_many_are_asked_about_at_once_is_bounded(
    stage: Stage, services: Services, server: AuthorizationServer
):
    plugin = made(services, max_in_flight=2)
    server.open.clear()
    playing = [asyncio.create_task(status(stage, plugin, f"t{n}")) for n in range(2)]
    await asyncio.sleep(0.01)
    played = await stage.play(plugin, request=bearing("t3"))
    assert (played.response.status, b"overloaded" in played.body) == (503, True)
    server.open.set()
    assert await asyncio.gather(*playing) == [401, 401]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"active": "true"}',
        b'{"active": 1}',
        b'{"active": null}',
        b"\xff",
        b'{"active": true, "sub": "' + b"x" * 70_000 + b'"}',
    ],
)
async def test_an_answer_that_makes_no_sense_is_no_answer(
    stage: Stage, services: Services, server: AuthorizationServer, answer: bytes
):
    server.tokens["good"] = answer
    plugin = made(services)
    assert await status(stage, plugin) == 503
    server.tokens["better"] = ACTIVE
    assert await status(stage, plugin, "better") == 200  # a token that it cannot cope with is no harm to others


@pytest.mark.parametrize("failing", [401, 403, 302, 404, 500, 204])
async def test_another_status_is_no_answer(stage: Stage, services: Services, server: AuthorizationServer, failing: int):
    server.status = failing
    assert await status(stage, made(services)) == 503
