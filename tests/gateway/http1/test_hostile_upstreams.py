"""What is no response: 502 or a closed connection, never passed on, never pooled."""

from __future__ import annotations

import asyncio

import pytest

from tests.fixtures.wire import OK, Edge, Target

ASK = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\n"

NO_RESPONSE = {
    "nothing": b"",
    "garbage": b"hello\r\n\r\n",
    "half a head": HEAD + b"X: 1",
    "LF only": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "the same length twice": HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "length and coding": HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "space before colon": HEAD + b"Content-Length : 5\r\n\r\nhello",
    "length -1": HEAD + b"Content-Length: -1\r\n\r\n",
    "unknown coding": HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
    "unasked 101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    "status 000": b"HTTP/1.1 000 Zero\r\nContent-Length: 0\r\n\r\n",
    "status 99": b"HTTP/1.1 99 Low\r\nContent-Length: 0\r\n\r\n",
    "status 600": b"HTTP/1.1 600 High\r\nContent-Length: 0\r\n\r\n",
    "status 1000": b"HTTP/1.1 1000 Long\r\nContent-Length: 0\r\n\r\n",
    "HTTP/2": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "NUL in a field": HEAD + b"X: a\0b\r\nContent-Length: 0\r\n\r\n",
    "CR in a field": HEAD + b"X: a\rSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
    "folded field": HEAD + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "endless head": HEAD + b"X: " + b"a" * 100_000,
    "endless interim": b"HTTP/1.1 100 Continue\r\n\r\n" * 100,
    "bad chunks at once": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
}


async def start(target: Target, **options: object) -> Edge:
    edge = Edge(target, **options)  # type: ignore[arg-type]
    await edge.start()
    return edge


@pytest.fixture
def target() -> Target:
    return Target(close_after=True)


@pytest.mark.parametrize("answer", NO_RESPONSE.values(), ids=NO_RESPONSE)
async def test_it_is_a_bad_gateway(target: Target, answer: bytes):
    target.answers = [answer]
    edge = await start(target)
    back = await edge.ask(ASK, 3.0) if not answer else await edge.ask(ASK, 0.4)
    assert back.count(b"HTTP/1.1 502 Bad Gateway") == 1 or (back.endswith((b"<end>", b"<reset>")) and b"ok" not in back)
    assert b"Set-Cookie" not in back
    assert edge.upstream.pool.idle == 0
    await edge.stop()


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"Content-Length: 10\r\n\r\nshort",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
    ],
    ids=["length", "in a chunk", "between chunks", "bad chunk"],
)
async def test_a_body_broken_off_does_not_look_whole(target: Target, answer: bytes):
    target.answers = [answer]
    edge = await start(target)
    back = await edge.ask(ASK, 1.0)
    whole = back.startswith(b"HTTP/1.1 200") and (back.endswith(b"0\r\n\r\n<end>") or b"Content-Length: 5" in back)
    assert not whole
    assert back.endswith((b"<end>", b"<reset>")) or back.startswith(b"HTTP/1.1 502")
    await edge.stop()


@pytest.mark.parametrize("surplus", [b"X", b"\r\n", OK], ids=["a byte", "an empty line", "a second answer"])
async def test_bytes_behind_the_end_never_answer_anybody(surplus: bytes):
    target = Target([OK + surplus])
    edge = await start(target)
    for _ in range(3):
        back = await edge.ask(ASK)
        assert back.endswith(b"\r\n\r\nok")
        assert back.count(b"HTTP/1.1") == 1
    assert len(target.heard) == 3, "each on a connection of its own"
    await edge.stop()


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_a_body_where_there_is_none_is_not_passed_on(status: bytes):
    target = Target([b"HTTP/1.1 " + status + b"\r\nContent-Length: 4\r\n\r\nevil"])
    edge = await start(target)
    assert b"evil" not in await edge.ask(ASK * 2)
    assert len(target.heard) == 2
    await edge.stop()


@pytest.mark.parametrize("framing", [b"Content-Length: 4\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"])
async def test_a_body_that_is_announced_where_there_is_none_is_not_waited_for(framing: bytes):
    target = Target([b"HTTP/1.1 204 No Content\r\n" + framing])
    edge = await start(target)
    assert (await edge.ask(ASK * 2)).count(b"HTTP/1.1 204") == 2
    assert len(target.heard) == 2, "what comes late must not answer the next request"
    await edge.stop()


async def test_a_body_for_head_is_not_passed_on():
    target = Target([HEAD + b"Content-Length: 4\r\n\r\nevil", HEAD + b"Content-Length: 7\r\n\r\n"])
    edge = await start(target)
    back = await edge.ask(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"Content-Length: 4" in back
    assert b"evil" not in back
    await edge.stop()


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"Content-Length: 2\r\n\r\nok",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\nT: 1\r\n\r\n",
        HEAD + b"\r\nok",
        b"HTTP/1.0 200 OK\r\n\r\nok",
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + HEAD + b"Content-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok",
    ],
    ids=["length", "chunked", "until close", "HTTP/1.0", "interim", "no reason"],
)
async def test_every_framing_is_understood(target: Target, answer: bytes):
    target.answers = [answer]
    edge = await start(target)
    back = await edge.ask(ASK)
    assert b"HTTP/1.1 200" in back
    assert back.removesuffix(b"<end>").endswith((b"\r\n\r\nok", b"\r\nok\r\n0\r\n\r\n", b"1\r\nk\r\n0\r\n\r\n"))
    await edge.stop()


async def test_a_target_that_is_silent_is_a_gateway_timeout():
    edge = await start(Target([b""]), upstream={"timeouts": {"first_byte": "200ms"}})
    back = await edge.ask(ASK, 2.0)
    assert back.startswith(b"HTTP/1.1 504 Gateway Timeout")
    await edge.stop()


@pytest.mark.parametrize(("method", "status"), [(b"GET", b"200"), (b"POST", b"502")])
async def test_a_connection_that_went_stale_is_tried_again_where_that_is_safe(method: bytes, status: bytes):
    """The target closes its first connection when it hears a second request on it."""

    class Stale(Target):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.heard.append(bytearray(await reader.readuntil(b"\r\n\r\n")))
            writer.write(OK)
            if len(self.heard) == 1:
                await reader.readuntil(b"\r\n\r\n")  # and closes without a word
            else:
                await reader.read()
            writer.close()

    target = Stale()
    edge = await start(target)
    await edge.ask(ASK)
    back = await edge.ask(method + b" / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
    assert back.startswith(b"HTTP/1.1 " + status)
    await edge.stop()


async def test_a_client_that_leaves_ends_the_call():
    target = Target([b""])
    edge = await start(target)
    _, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(ASK)
    await asyncio.sleep(0.1)
    assert (len(target.heard), target.closed) == (1, 0)
    writer.close()
    await asyncio.sleep(0.2)
    assert target.closed == 1
    await edge.stop()
