"""Tunnels on the wire: what each side hears, byte by byte, of a WebSocket that goes well, badly, or has to end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.exchange import Exchange
from gateway.plugin import AnyPlugin
from gateway.problem import JournalFull
from tests.fixtures.conversation import Caller, Line, Scripted, calling, eventually, serving
from tests.fixtures.frames import ACCEPT, BINARY, CONTINUATION, KEY, PING, PONG, TEXT, close, codes, frame, frames, said
from tests.fixtures.wire import OK, Alone, Edge, Target

FIELDS = b"Host: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n"
ASK = b"GET /chat HTTP/1.1\r\n" + FIELDS + b"Sec-WebSocket-Key: " + KEY + b"\r\n"
YES = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n"
)


class Watch(Alone):
    """Keeps the exchanges that have ended."""

    def __init__(self) -> None:
        self.ended: list[Exchange] = []

    def on_finish(self, exchange: Exchange) -> None:
        self.ended.append(exchange)


class Talk:
    """A client and an upstream on both ends of a tunnel; `lines` is the upstream's side."""

    def __init__(self, edge: Edge, client: Caller, line: Line, watch: Watch) -> None:
        self.edge, self.client, self.line, self.watch = edge, client, line, watch

    async def is_left(self, code: int = 1001) -> bool:
        """Whether the client is told so, and the connection ends once it has said Close as well."""
        told = b""
        while not told:
            told = await self.client.some(200)
        await self.client.say(close(code, masked=True))
        return codes(told) == [code] and await self.client.rest() == b"<end>"

    async def ended(self) -> Exchange:
        assert await eventually(lambda: bool(self.watch.ended))
        return self.watch.ended[0]

    async def line_hears(self) -> bytes:
        """All that the upstream hears until its connection ends, unmasked or not."""
        start = len(self.line.heard)
        await asyncio.wait_for(self.line.gone(), 5)
        return bytes(self.line.heard[self.line.heard.index(b"\r\n\r\n") + 4 : start] + self.line.heard[start:])


@asynccontextmanager
async def talking(*plugins: AnyPlugin, asked: bytes = ASK, agreed: bytes = YES, **options: Any) -> AsyncIterator[Talk]:
    """A tunnel that is open. What the client sent with its handshake may already be at the upstream."""
    lines: asyncio.Queue[Line] = asyncio.Queue()
    over = asyncio.Event()

    async def agree(line: Line) -> None:
        await line.head()
        await line.say(agreed + b"\r\n")
        lines.put_nowait(line)
        await over.wait()

    watch = Watch()
    options = {"websocket": {}, **options}
    target = Scripted(agree)
    edge_options: dict[str, Any] = {"route": {"websocket": options.pop("websocket")}, **options}
    async with serving(target, watch, *plugins, **edge_options) as edge, calling(edge) as client:
        await client.say(asked + b"\r\n")
        head = await client.hear(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        yield Talk(edge, client, await asyncio.wait_for(lines.get(), 5), watch)
        over.set()


# What goes well


async def test_the_handshake_goes_through_and_the_hops_are_said_anew() -> None:
    lines: list[bytes] = []

    async def agree(line: Line) -> None:
        lines.append(await line.head())
        await line.say(YES + b"Sec-WebSocket-Protocol: superchat\r\nKeep-Alive: timeout=5\r\n\r\n")
        await line.gone()

    async with serving(Scripted(agree), route={"websocket": {}}) as edge, calling(edge) as client:
        await client.say(ASK + b"Sec-WebSocket-Protocol: chat, superchat\r\nOrigin: https://a\r\n\r\n")
        answer = (await client.hear(b"\r\n\r\n")).lower()
    asked = lines[0].lower()
    for field in (b"connection: upgrade", b"upgrade: websocket", b"origin: https://a", b"via: 1.1 tallygate"):
        assert asked.count(field) == 1, asked
    assert b"sec-websocket-protocol: chat, superchat\r\n" in asked
    for field in (b"connection: upgrade", b"upgrade: websocket", b"sec-websocket-accept: " + ACCEPT.lower()):
        assert answer.count(field) == 1, answer
    assert b"sec-websocket-protocol: superchat\r\n" in answer
    assert b"keep-alive" not in answer
    assert b"content-length" not in answer


async def test_frames_pass_unchanged_both_ways_and_are_counted() -> None:
    there = said(TEXT, b"one ", fin=False) + said(PING, b"alive?") + said(CONTINUATION, b"message")
    back = frame(PONG, b"alive?") + frame(TEXT, b"two") + frame(BINARY, b"\xff" * 70_000)
    async with talking() as talk:
        await talk.client.say(there)
        assert await talk.line.exactly(len(there)) == there
        await talk.line.say(back)
        assert await talk.client.hear(back) == back
        await talk.client.say(close(1000, b"bye", masked=True))
        goodbye = close(1000, b"bye", masked=True)
        assert await talk.line.exactly(len(goodbye)) == goodbye
        await talk.line.say(close(1000, b"bye"))
        talk.line.finish()
        assert await talk.client.rest() == close(1000, b"bye") + b"<end>"
        talk.client.close()
        exchange = await talk.ended()
    assert (exchange.outcome, exchange.status_sent) == ("ok", 101)
    assert (exchange.messages_in, exchange.messages_out) == (1, 2)
    assert (exchange.bytes_in, exchange.bytes_out) == (11, 70_003)


async def test_what_is_said_with_the_handshake_is_not_lost() -> None:
    hello, welcome = said(TEXT, b"hello"), frame(TEXT, b"welcome")
    async with talking(asked=ASK, agreed=YES) as talk:
        await talk.line.say(welcome)
        assert await talk.client.hear(welcome) == welcome

    async def agree(line: Line) -> None:
        await line.head()
        await line.say(YES + b"\r\n" + welcome)
        await line.exactly(len(hello))
        await line.say(frame(TEXT, b"heard"))
        await line.gone()

    async with serving(Scripted(agree), route={"websocket": {}}) as edge, calling(edge) as client:
        await client.say(ASK + b"\r\n" + hello)
        await client.hear(welcome)
        await client.hear(b"heard")


async def test_the_end_of_what_one_side_says_does_not_silence_the_other() -> None:
    async with talking() as talk:
        await talk.client.say(said(TEXT, b"last"))
        talk.client.half_close()
        assert frames(await talk.line_hears())[-1].payload == b"last"
        await talk.line.say(frame(TEXT, b"still here"))
        talk.line.finish()
        assert await talk.client.rest() == frame(TEXT, b"still here") + b"<end>"
        assert (await talk.ended()).outcome == "client_gone"


async def test_a_side_that_takes_nothing_slows_the_other_down() -> None:
    async with talking(websocket={"max_message": "64MiB"}) as talk:
        message = said(BINARY, b"x" * 40 * 2**20)
        taken = await talk.client.say_while_taken(message)
        assert taken < 24 * 2**20  # what both transports and the kernel hold, and no more
        heard = asyncio.ensure_future(talk.line.exactly(len(message)))
        await talk.client.say(message[taken:])
        assert await heard == message


# What breaks the rules

BROKEN = {
    "not masked": (frame(TEXT, b"x"), 1002),
    "a reserved opcode": (said(0x3), 1002),
    "a reserved bit": (said(TEXT, b"x", reserved=1), 1002),
    "a ping in fragments": (said(PING, fin=False), 1002),
    "a ping too long": (said(PING, b"x" * 126), 1002),
    "a code that is none": (close(1006, masked=True), 1002),
    "no text": (said(TEXT, b"\xff"), 1007),
    "too large": (said(BINARY, b"x" * 1001), 1009),
}


@pytest.mark.parametrize(("wire", "code"), BROKEN.values(), ids=BROKEN)
async def test_a_client_that_breaks_a_rule_is_told_and_logged_once(
    wire: bytes, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with talking(websocket={"max_message": "1000B"}) as talk:
        await talk.client.say(said(TEXT, b"good") + wire + wire)
        heard = asyncio.ensure_future(talk.line_hears())
        told = await talk.client.rest()
        talk.client.close()
        talk.line.finish()
        assert told.endswith(b"<end>")
        assert codes(told.removesuffix(b"<end>")) == [code]
        at_upstream = frames(await heard)
        assert [found.payload[:4] for found in at_upstream[:1]] == [b"good"]
        assert [int.from_bytes(found.payload[:2]) for found in at_upstream[1:]] == [1001]
        assert all(found.masked for found in at_upstream)
        exchange = await talk.ended()
    assert (exchange.outcome, exchange.messages_in) == ("client_gone", 1)
    assert [record.message for record in caplog.records if "by fault of the client" in record.message] != []
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "wire", [said(TEXT, b"x"), frame(0x5), frame(TEXT, b"\xc3(")], ids=["masked", "opcode", "text"]
)
async def test_an_upstream_that_breaks_a_rule_is_told_so(wire: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with talking() as talk:
        await talk.line.say(wire)
        heard = asyncio.ensure_future(talk.line_hears())
        told = await talk.client.rest()
        assert codes(told.removesuffix(b"<end>")) == [1001]
        talk.client.close()
        talk.line.finish()
        assert frames(await heard)[-1].payload[:2] in ((1002).to_bytes(2), (1007).to_bytes(2))
        assert (await talk.ended()).outcome == "upstream_error"
    assert sum("by fault of the upstream" in record.message for record in caplog.records) == 1


async def test_a_text_that_turns_bad_on_its_way_is_broken_off() -> None:
    """Its beginning is with the upstream already, which would take a Close for more of the text."""
    wire = said(TEXT, b"good" + b"\xff" * 10)
    async with talking() as talk:
        await talk.client.say(wire[:10])
        assert await talk.line.exactly(10) == wire[:10]
        await talk.client.say(wire[10:])
        heard = asyncio.ensure_future(talk.line_hears())
        assert codes((await talk.client.rest()).removesuffix(b"<end>")) == [1007]
        talk.client.close()
        talk.line.finish()
        assert await heard == wire[:10]


async def test_a_close_waits_for_the_end_of_the_frame_that_is_on_its_way() -> None:
    wire = frame(BINARY, b"x" * 100)
    async with talking() as talk:
        await talk.line.say(wire[:50])
        assert await talk.client.hear(wire[:50]) == wire[:50]
        await talk.client.say(said(0x3))
        assert await talk.client.meanwhile(0.1) == b""
        await talk.line.say(wire[50:] + wire)
        told = await talk.client.rest()
        assert told.startswith(wire[50:])
        assert codes(told.removeprefix(wire[50:]).removesuffix(b"<end>")) == [1002]


# What has to end


async def test_who_says_nothing_for_too_long_is_left() -> None:
    async with talking(websocket={"idle_timeout": "400ms"}) as talk:
        for _ in range(4):
            await asyncio.sleep(0.2)
            await talk.client.say(said(PING))
        assert await talk.is_left()
        talk.client.close()
        talk.line.finish()
        assert (await talk.ended()).outcome == "ok"


@pytest.mark.parametrize("who", ["client", "upstream"])
async def test_a_connection_that_is_lost_ends_the_other(who: str) -> None:
    async with talking() as talk:
        if who == "client":
            talk.client.vanish()
            await asyncio.wait_for(talk.line.gone(), 5)
            talk.line.finish()
        else:
            talk.line.cut()
            assert await talk.client.rest() in (b"<end>", b"<reset>")
            talk.client.close()
        assert (await talk.ended()).outcome == ("client_gone" if who == "client" else "upstream_error")


async def test_a_process_that_stops_takes_leave() -> None:
    async with talking() as talk:
        stopping = asyncio.ensure_future(talk.edge.listener.drain(5))
        heard = asyncio.ensure_future(talk.line_hears())
        assert await talk.is_left()
        talk.client.close()
        talk.line.finish()
        assert codes(await heard) == [1001]
        await asyncio.wait_for(stopping, 2)
        assert (await talk.ended()).outcome == "ok"


async def test_a_listener_that_closes_leaves_its_tunnels_alone() -> None:
    async with talking() as talk:
        talk.edge.listener.close()
        await talk.client.say(said(TEXT, b"still here"))
        assert await talk.line.exactly(16) == said(TEXT, b"still here")


async def test_who_does_not_go_is_cut_when_time_is_over() -> None:
    async with talking() as talk:
        began = asyncio.get_running_loop().time()
        await talk.edge.listener.drain(0.3)
        assert 0.25 < asyncio.get_running_loop().time() - began < 2
        exchange = await talk.ended()
    assert exchange.status_sent == 101


# What never becomes a tunnel


async def refused(asked: bytes, target: Target, *plugins: AnyPlugin, **route: Any) -> bytes:
    async with serving(target, *plugins, route=route) as edge, calling(edge) as client:
        await client.say(asked + b"\r\n")
        return await client.answer()


async def test_a_route_without_websockets_asks_for_none() -> None:
    target = Target([OK])
    assert (await refused(ASK, target)).startswith(b"HTTP/1.1 200 ")
    assert b"upgrade" not in target.text.lower()


async def test_an_upstream_that_declines_is_heard() -> None:
    answer = await refused(ASK, Target([b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"]), websocket={})
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert answer.endswith(b"no")


async def test_a_bad_handshake_reaches_no_upstream() -> None:
    target = Target([OK])
    old = ASK.replace(b"Version: 13", b"Version: 8")
    answer = await refused(old, target, websocket={})
    assert answer.startswith(b"HTTP/1.1 426 ")
    assert b"sec-websocket-version: 13\r\n" in answer.lower()
    assert (await refused(ASK.replace(KEY, b"short"), target, websocket={})).startswith(b"HTTP/1.1 400 ")
    assert target.heard == []


@pytest.mark.parametrize(
    "answer",
    [
        YES.replace(ACCEPT, b"x" * 28) + b"\r\n",
        YES + b"Sec-WebSocket-Extensions: x-secret\r\n\r\n",
        YES.replace(b"websocket", b"h2c") + b"\r\n",
    ],
    ids=["a wrong accept", "an extension", "another protocol"],
)
async def test_an_upstream_that_answers_wrong_is_a_bad_gateway(answer: bytes) -> None:
    assert (await refused(ASK, Target([answer]), websocket={})).startswith(b"HTTP/1.1 502 ")


async def test_a_plugin_may_refuse_in_the_last_moment() -> None:
    class Refusing(Alone):
        def on_upgrade(self, exchange: Exchange) -> None:
            raise JournalFull

    target = Target([YES + b"\r\n"])
    assert (await refused(ASK, target, Refusing(), websocket={})).startswith(b"HTTP/1.1 503 ")
    assert await eventually(lambda: target.closed == 1)
