"""What is no TLS, or stops being it: closed in time, counted by reason, told to the log once a minute."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from gateway.exchange import Exchange
from tests.fixtures.certificates import Authority
from tests.fixtures.conversation import Caller, Line, Scripted, calling, eventually, serving, silence
from tests.fixtures.secure_conversation import GET, SecureCaller, calling_securely
from tests.fixtures.wire import OK, Alone, Edge, Target

BIND = "127.0.0.1:1"


@pytest.fixture
async def edge(authority: Authority) -> AsyncIterator[Edge]:
    async with serving(Target(), tls=authority.issue("a", ["localhost"]).options, head_timeout="300ms") as edge:
        yield edge


def failures(edge: Edge) -> dict[str, float]:
    """How many handshakes have failed, by reason."""
    _, family = edge.metrics._families["tallygate_tls_handshake_failures_total"]
    return {reason: series.value for (_, reason), series in family._known.items()}


def hello(authority: Authority) -> bytes:
    """A ClientHello."""
    caller = SecureCaller(None, authority.client(), "localhost")  # type: ignore[arg-type]
    with pytest.raises(ssl.SSLWantReadError):
        caller.ssl.do_handshake()
    return caller._outgoing.read()


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (GET, "plain_http"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "plain_http"),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", "plain_http"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "not_tls"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "not_tls"),
        (b"\x00" * 100, "not_tls"),
        (b"\xff" * 100_000, "not_tls"),
        (b"\x16\x03\x01\xff\xff" + b"a" * 20, "not_tls"),
        (b"\x80\x2e\x01\x00\x02" + b"\x00" * 50, "other"),  # as SSL 2 began
    ],
    ids=["GET", "POST", "CONNECT", "HTTP/2", "SSH", "zeros", "ones", "a huge record", "SSL 2"],
)
async def test_what_is_no_tls_is_closed_and_counted(edge: Edge, sent: bytes, reason: str) -> None:
    async with calling(edge) as client:
        try:
            await client.say(sent)
            back = await client.rest(2.0)
        except ConnectionError:
            back = b"<reset>"
        assert back.endswith((b"<end>", b"<reset>"))
        assert b"HTTP/" not in back
    assert await eventually(lambda: not edge.listener._connections)
    assert failures(edge) == {reason: 1}
    assert edge.target.heard == []


async def test_bytes_at_random_are_closed_and_counted(edge: Edge) -> None:
    for _ in range(50):
        async with calling(edge) as client:
            try:
                await client.say(os.urandom(200))
                await client.rest(2.0)
            except ConnectionError:
                pass
    assert await eventually(lambda: not edge.listener._connections)
    assert sum(failures(edge).values()) == 50


async def test_a_client_hello_that_stops_is_closed_in_the_time_of_a_head(edge: Edge, authority: Authority) -> None:
    whole = hello(authority)
    for part in (b"", whole[:3], whole[:100], whole):
        async with calling(edge) as client:
            began = asyncio.get_running_loop().time()
            await client.say(part)
            back = await client.rest(3.0)
            assert back.endswith(b"<end>")
            assert 0.2 < asyncio.get_running_loop().time() - began < 1.5
    assert failures(edge) == {"unfinished": 4}
    assert edge.listener._connections == set()


async def test_a_client_hello_that_drips_is_closed_in_the_time_of_a_head(edge: Edge, authority: Authority) -> None:
    async with calling(edge) as client:

        async def drip() -> None:
            for byte in hello(authority):
                await client.say(bytes([byte]))
                await asyncio.sleep(0.01)

        dripping = asyncio.create_task(drip())
        assert (await client.rest(2.0)).endswith((b"<end>", b"<reset>"))
        await asyncio.gather(dripping, return_exceptions=True)
    assert failures(edge) == {"unfinished": 1}


async def test_a_client_hello_may_come_byte_by_byte(authority: Authority) -> None:
    async with serving(Target(), tls=authority.issue("a", ["localhost"]).options) as edge, calling(edge) as wire:
        client = SecureCaller(wire, authority.client(), "localhost")
        whole = wire.say

        async def bytewise(text: bytes) -> None:
            for byte in text:
                await whole(bytes([byte]))
                await asyncio.sleep(0)

        wire.say = bytewise  # type: ignore[method-assign]
        await client.shake_hands()
        assert (await client.ask()).endswith(b"ok")


async def test_a_client_that_leaves_in_the_handshake_is_counted(edge: Edge, authority: Authority) -> None:
    for leave in (Caller.half_close, Caller.vanish):
        async with calling(edge) as client:
            await client.say(hello(authority))
            await client.some(1)
            leave(client)
            if leave is Caller.half_close:
                await client.rest(1.0)
    assert await eventually(lambda: failures(edge) == {"closed": 2})
    assert await eventually(lambda: not edge.listener._connections)


async def test_a_client_that_does_not_believe_us_is_counted(edge: Edge, authority: Authority) -> None:
    for context, name in ((ssl.create_default_context(), "localhost"), (authority.client(), "other.example")):
        with pytest.raises(ssl.SSLCertVerificationError):
            async with calling_securely(edge, context, name):
                pass
    assert await eventually(lambda: failures(edge) == {"refused_by_peer": 2})


async def test_a_record_that_was_tampered_with_ends_the_connection(edge: Edge, authority: Authority) -> None:
    async with calling_securely(edge, authority.client()) as client:
        await client.ask()
        record = bytearray(client.sealed(GET))
        record[-1] ^= 1
        await client.wire.say(bytes(record))
        with pytest.raises(ssl.SSLError, match="bad record mac"):
            await client.some()
    assert len(edge.target.heard[0].split(b"\r\n\r\n")) == 2, "one request"


async def test_no_client_can_renegotiate(authority: Authority) -> None:
    """openssl s_client renegotiates when it is told `R`."""
    async with serving(Target(), tls=authority.issue("a", ["localhost"]).options, idle_timeout="1s") as edge:
        program = await asyncio.create_subprocess_exec(
            "openssl", "s_client", "-connect", f"127.0.0.1:{edge.port}", "-tls1_2", "-CAfile", str(authority.path),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        assert program.stdin is not None
        assert program.stdout is not None
        async with asyncio.timeout(5):
            await program.stdout.readuntil(b"Verify return code: 0 (ok)")
            program.stdin.write(b"R\n")
            said = await program.stdout.read()
            program.stdin.close()
            await program.wait()
        assert b"RENEGOTIATING" in said
        assert b"no renegotiation" in said
        assert failures(edge) == {"renegotiation": 1}
        assert await eventually(lambda: edge.listener.empty)
        assert edge.target.heard == []


async def test_failures_are_told_to_the_log_in_one_line(
    edge: Edge, caplog: pytest.LogCaptureFixture, authority: Authority
) -> None:
    assert edge.listener.tls is not None
    with caplog.at_level(logging.DEBUG):
        for _ in range(20):
            async with calling(edge) as client:
                await client.say(GET)
                await client.rest()
        async with calling(edge) as client:
            await client.say(b"SSH-2.0-x\r\n")
            await client.rest()
        assert [record.message for record in caplog.records if record.name != "asyncio"] == []
        edge.listener.tls._report()
        edge.listener.tls._report()
    (line,) = [record for record in caplog.records if record.name != "asyncio"]
    assert line.message == (
        "127.0.0.1:1: TLS handshakes failed within a minute: "
        "plain_http 20 (last from 127.0.0.1), not_tls 1 (last from 127.0.0.1)"
    )


# Endings


async def test_a_connection_that_ends_says_goodbye(authority: Authority) -> None:
    tls = authority.issue("a", ["localhost"]).options
    async with serving(Target(), tls=tls, idle_timeout="200ms", head_timeout="400ms") as edge:
        async with calling_securely(edge, authority.client()) as client:
            await client.ask()
            assert await client.rest() == b"<goodbye>", "idle for too long"
        async with calling_securely(edge, authority.client()) as client:
            await client.say(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert (await client.rest()).endswith(b"ok<goodbye>")
        async with calling_securely(edge, authority.client()) as client:
            await client.say(b"GET / HTTP/1.1\r\nHo")
            back = await client.rest()
            assert back.startswith(b"HTTP/1.1 408 ")
            assert back.endswith(b"<goodbye>")
        async with calling_securely(edge, authority.client()) as client:
            await client.say(b"nonsense\r\n\r\n" + b"a" * 100_000)
            back = await client.rest()
            assert back.startswith(b"HTTP/1.1 400 ")
            assert back.endswith(b"<goodbye>"), "what was not read does not destroy the answer"


async def test_an_answer_to_its_end_ends_with_a_goodbye_and_half_an_answer_without(authority: Authority) -> None:
    """So that a client can tell them apart where only the end of the connection tells the end of the body."""

    async def whole(line: Line) -> None:
        await line.head()
        await line.say(b"HTTP/1.1 200 OK\r\n\r\nhello")

    async def half(line: Line) -> None:
        await line.head()
        await line.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await asyncio.sleep(0.1)
        line.cut()

    old = b"GET / HTTP/1.0\r\nHost: a\r\n\r\n"
    async with serving(Scripted(whole, half), tls=authority.issue("a", ["localhost"]).options) as edge:
        async with calling_securely(edge, authority.client()) as client:
            await client.say(old)
            assert (await client.rest()).endswith(b"hello<goodbye>")
        async with calling_securely(edge, authority.client()) as client:
            await client.say(old)
            assert (await client.rest()).endswith((b"hello<reset>", b"hello<end>"))


class Outcomes(Alone):
    """Keeps how exchanges ended."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[str, int]] = []

    def on_finish(self, exchange: Exchange) -> None:
        self.outcomes.append((exchange.outcome, exchange.bytes_in))


async def _ends_tcp(client: SecureCaller) -> None:
    client.wire.half_close()


async def _says_goodbye(client: SecureCaller) -> None:
    await client.goodbye()


async def _vanishes(client: SecureCaller) -> None:
    client.wire.vanish()


@pytest.mark.parametrize("leave", [_ends_tcp, _says_goodbye, _vanishes])
async def test_a_client_that_leaves_in_the_middle_of_its_body_is_gone(
    authority: Authority, leave: Callable[[SecureCaller], Awaitable[None]]
) -> None:
    """With close_notify or without: the body is not whole, and the upstream is not told that it is."""
    target, watching = Scripted(silence), Outcomes()
    async with serving(target, watching, tls=authority.issue("a", ["localhost"]).options) as edge:
        async with calling_securely(edge, authority.client()) as client:
            await client.say(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            assert await eventually(lambda: b"hello" in target.text)
            await leave(client)
            assert await eventually(lambda: watching.outcomes == [("client_gone", 5)])
            assert await eventually(lambda: target.closed == 1)
        assert b"0\r\n\r\n" not in target.text
        assert await eventually(lambda: not edge.listener._connections)


async def test_a_client_that_says_goodbye_while_it_waits_is_taken_for_gone(authority: Authority) -> None:
    target = Scripted(silence)
    tls = authority.issue("a", ["localhost"]).options
    async with serving(target, tls=tls) as edge, calling_securely(edge, authority.client()) as client:
        await client.say(GET)
        assert await eventually(lambda: b"\r\n\r\n" in target.text)
        await client.goodbye()
        assert await client.rest() == b"<goodbye>"
        assert await eventually(lambda: target.closed == 1)


async def test_a_client_that_takes_nothing_is_disconnected(authority: Authority) -> None:
    async def endless(line: Line) -> None:
        await line.head()
        await line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        while True:
            await line.say(b"a" * 65536)

    options = {"tls": authority.issue("a", ["localhost"]).options, "send_timeout": "500ms"}
    async with serving(Scripted(endless), **options) as edge, calling(edge, receive_buffer=4096) as wire:
        client = SecureCaller(wire, authority.client(), "localhost")
        await client.shake_hands()
        await client.say(GET)
        assert await eventually(lambda: len(edge.listener._connections) == 1)
        assert await eventually(lambda: not edge.listener._connections)


async def test_a_drain_lets_an_answer_finish_and_ends_what_shakes_hands(authority: Authority) -> None:
    told = asyncio.Event()

    async def slow(line: Line) -> None:
        await line.head()
        await told.wait()
        await line.say(OK)

    async with AsyncExitStack() as stack:
        edge = await stack.enter_async_context(serving(Scripted(slow), tls=authority.issue("a", ["localhost"]).options))
        busy = await stack.enter_async_context(calling_securely(edge, authority.client()))
        silent = await stack.enter_async_context(calling(edge))
        await busy.say(GET)
        assert await eventually(lambda: bool(edge.target.text))
        drain = asyncio.create_task(edge.listener.drain(5.0))
        assert await silent.rest() == b"<end>"
        told.set()
        back = await busy.rest()
        assert b"\r\nConnection: close\r\n" in back
        assert back.endswith(b"ok<goodbye>")
        await drain
