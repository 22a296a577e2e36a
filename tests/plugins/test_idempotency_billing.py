"""An answer that is given again, and what it costs: with the real metering, in either order, and on the wire."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.plugin import AnyPlugin
from plugins.idempotency import Idempotency
from plugins.key_auth import KeyAuth
from plugins.metering import Metering
from tests.fixtures.conversation import Line, Scripted, calling, eventually, serving
from tests.fixtures.keyed import fate, made, post, stage
from tests.fixtures.valkey import ValkeyServer, valkey, valkey_process
from tests.play import KEY, Stage

__all__ = ["stage", "valkey", "valkey_process"]

TOKENS = {"name": "tokens", "from": "response_json", "path": "order", "estimate": 99}
ORDER = f"POST /orders HTTP/1.1\r\nHost: a\r\nX-Api-Key: {KEY}\r\nIdempotency-Key: k1\r\nContent-Length: 2\r\n\r\n{{}}"


def chain(stage: Stage, order: str = "metering first", **options: Any) -> list[AnyPlugin]:
    metering = stage.make(Metering, meters=["requests", "bytes_out", TOKENS])
    idempotency = stage.make(Idempotency, **options)
    pair = [metering, idempotency] if order == "metering first" else [idempotency, metering]
    return [stage.make(KeyAuth), *pair]


def booked(stage: Stage) -> list[dict[str, int]]:
    """The quantities of the events that say that something was used."""
    return [event.quantities for event in stage.events() if any(event.quantities.values())]


@pytest.mark.parametrize(
    ("order", "bill_replays", "events"),
    [("metering first", False, 1), ("metering first", True, 3), ("idempotency first", False, 1)],
)
async def test_an_answer_that_is_given_again_is_not_billed_again(
    stage: Stage, order: str, bill_replays: bool, events: int
):
    for _ in range(3):
        plugins = chain(stage, order, bill_replays=bill_replays)
        played = await stage.play(*plugins, request=post(x_api_key=KEY), answer=made())
        assert played.response.status == 201
    assert booked(stage) == [{"requests": 1, "bytes_out": 11, "tokens": 7}] * events
    assert stage.usage.journal._promised == 0
    assert stage.usage.journal._open == {}


async def test_the_last_byte_waits_for_the_disk_and_for_the_store(tmp_path: Path, valkey: ValkeyServer):
    stage = Stage(tmp_path / "journal", valkey.url, sync="disk")
    for _ in range(2):
        played = await stage.play(*chain(stage), request=post(x_api_key=KEY), answer=made())
        assert played.exchange.status_sent == 201
    assert fate(stage, "kept") == 1
    assert len(booked(stage)) == 1
    await stage.close()


async def test_an_answer_whose_client_had_left_is_billed_when_it_is_fetched(stage: Stage):
    """Else whoever hangs up early and asks again would pay nothing."""
    answering = asyncio.Event()

    async def upstream(line: Line) -> None:
        await line.until(b"\r\n\r\n{}")
        await answering.wait()
        await line.say(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"order":7}')

    async with serving(Scripted(upstream), *chain(stage)) as edge:
        async with calling(edge) as client:
            await client.say(ORDER.encode())
            assert await eventually(lambda: b"\r\n\r\n{}" in edge.target.text)
            client.vanish()
        await asyncio.sleep(0.05)
        answering.set()
        assert await eventually(lambda: fate(stage, "kept") == 1)
        assert booked(stage) == [{"requests": 0, "bytes_out": 0, "tokens": 7}]  # what was used although nobody heard it
        for _ in range(3):
            async with calling(edge) as client:
                await client.say(ORDER.encode())
                answer = await client.answer()
            assert b"\r\nIdempotent-Replayed: true\r\n" in answer
            assert answer.endswith(b'{"order":7}')
            await asyncio.sleep(0.05)
        assert edge.target.text.count(b"POST ") == 1
    assert booked(stage)[1:] == [{"requests": 1, "bytes_out": 11}]
