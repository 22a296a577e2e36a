"""Metering of WebSockets: one event, whose beginning is on record before the client hears of its session."""

from __future__ import annotations

import asyncio

import pytest

import plugins.metering
from gateway.metering.event import UsageEvent
from gateway.metering.segment import STARTED, SegmentReader, decode_payload
from plugins.access_log import AccessLog
from plugins.key_auth import KeyAuth
from plugins.metering import Metering
from tests.fixtures.conversation import Line, Scripted, calling, eventually, serving
from tests.fixtures.frames import ACCEPT, BINARY, KEY, TEXT, close, frame, said
from tests.play import KEY as API_KEY
from tests.play import Stage

METERS = ["requests", "messages_in", "messages_out", "bytes_in", "bytes_out"]
ASK = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: %b\r\nX-Api-Key: %b\r\n\r\n" % (KEY, API_KEY.encode())
)
YES = b"HTTP/1.1 101 Yes\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + ACCEPT + b"\r\n\r\n"
TO_CLIENT = frame(TEXT, b"hello") + frame(BINARY, b"\xff" * 1000)
TO_UPSTREAM = said(TEXT, b"hi")


def started(stage: Stage) -> list[UsageEvent]:
    """The records of what has begun, in the order they were written."""
    found: list[UsageEvent] = []
    for path in sorted(stage.directory.glob("*/*.segment")):
        payloads = [record.payload for record in SegmentReader(path) if record.kind == STARTED]
        found += [event for event in map(decode_payload, payloads) if event is not None]
    return found


async def greet(line: Line) -> None:
    """Agrees, says two messages, hears one, and goes on until the client ends it."""
    await line.head()
    await line.say(YES + TO_CLIENT)
    await line.exactly(len(TO_UPSTREAM))
    await line.gone()


def chain(stage: Stage, **options: object) -> list:
    options = {"meters": METERS, **options}
    return [stage.make(AccessLog), stage.make(KeyAuth), stage.make(Metering, **options)]


async def test_a_session_is_one_event_and_one_line(stage: Stage):
    async with serving(Scripted(greet), *chain(stage), route={"websocket": {}}) as edge:
        async with calling(edge) as client:
            await client.say(ASK)
            await client.hear(TO_CLIENT)
            (beginning,) = started(stage)
            assert (beginning.outcome, beginning.quantities["requests"]) == ("estimated", 1)
            assert stage.events() == []
            await client.say(TO_UPSTREAM + close(1000, masked=True))
        assert await eventually(lambda: stage.events() != [])
    (event,) = stage.events()
    assert event.event_id == beginning.event_id
    assert (event.status, event.outcome, event.kind) == (101, "ok", "usage")
    assert event.quantities == {"requests": 1, "messages_in": 1, "messages_out": 2, "bytes_in": 2, "bytes_out": 1005}
    (line,) = stage.access_log.lines
    assert (line["status"], line["bytes_in"], line["bytes_out"]) == (101, 2, 1005)
    assert stage.usage.journal._promised == 0


async def test_a_session_that_breaks_off_is_billed_with_what_was_said(stage: Stage):
    async with serving(Scripted(greet), *chain(stage), route={"websocket": {}}) as edge:
        async with calling(edge) as client:
            await client.say(ASK)
            await client.hear(TO_CLIENT)
            client.vanish()
        assert await eventually(lambda: stage.events() != [])
    (event,) = stage.events()
    assert event.outcome == "client_gone"
    assert event.quantities == {"requests": 1, "messages_in": 0, "messages_out": 2, "bytes_in": 0, "bytes_out": 1005}


async def test_what_it_has_come_to_is_written_down_now_and_then(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plugins.metering, "RENEW_SECONDS", 0.05)
    async with serving(Scripted(greet), *chain(stage), route={"websocket": {}}) as edge:
        async with calling(edge) as client:
            await client.say(ASK)
            await client.hear(TO_CLIENT)
            assert await eventually(lambda: len(started(stage)) == 2)
            await asyncio.sleep(0.2)  # nothing more is said, and nothing more is written
            first, second = started(stage)
            assert first.event_id == second.event_id
            assert second.outcome == "estimated"
            assert second.quantities == {
                "requests": 1, "messages_in": 0, "messages_out": 2, "bytes_in": 0, "bytes_out": 1005
            }  # fmt: skip
        assert await eventually(lambda: stage.events() != [])


async def test_a_session_that_could_not_be_recorded_never_begins(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    await stage.usage.journal.finish()
    target = Scripted(greet)
    async with serving(target, *chain(stage), route={"websocket": {}}) as edge, calling(edge) as client:
        await client.say(ASK)
        assert (await client.answer()).startswith(b"HTTP/1.1 503 ")
    assert target.heard == []


async def test_without_a_key_there_is_no_session(stage: Stage):
    target = Scripted(greet)
    async with serving(target, *chain(stage), route={"websocket": {}}) as edge, calling(edge) as client:
        await client.say(ASK.replace(API_KEY.encode(), b"x"))
        assert (await client.answer()).startswith(b"HTTP/1.1 401 ")
    assert target.heard == []
    assert stage.events() == []
