"""Replay: what is sent again is what was sent, byte for byte, and what is kept is bounded and given back."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.body import Body, BodyTooLarge
from gateway.exchange import Request
from gateway.headers import Headers
from gateway.metrics import Metrics
from gateway.upstream.call import response_of
from gateway.upstream.replay import ReplayableBody, ReplayMemory
from tests.fixtures.upstream import OK, calling


def memory(limit: int = 10**6) -> ReplayMemory:
    return ReplayMemory(Metrics(None), limit)


def drained(body: ReplayableBody) -> tuple[bytes, bool]:
    """All that can be taken now, and whether it is the end."""
    taken, last = b"", False
    while not last and (piece := body.take()) is not None:
        taken, last = taken + piece[0], piece[1]
    return taken, last


steps = st.lists(st.binary(max_size=40) | st.sampled_from(["take", "rewind", "finish", "release"]), max_size=40)


@given(steps, st.integers(0, 100), st.integers(0, 100), st.booleans())
def test_every_attempt_reads_the_whole_body(steps: list, limit: int, room: int, declared: bool) -> None:
    """Of any interleaving of what arrives, what is read and what begins again."""
    shared = memory(room)
    whole = b"".join(step for step in steps if isinstance(step, bytes)) if "finish" not in steps else b""
    body = Body(length=len(whole) if declared and "finish" not in steps else None)
    replayable = ReplayableBody(body, limit, shared)
    arrived = read = b""
    most, lost, released = 0, False, False
    for step in steps:
        if isinstance(step, bytes):
            if not body.complete:
                body.feed(step)
                arrived += step
        elif step == "finish":
            body.finish()
        elif step == "release":
            replayable.release()
            released = True
        elif step == "rewind" and not released:
            lost = lost or not replayable.rewind()
            if lost:
                assert most > min(limit, room) or (body.length or 0) > limit
                break
            read = b""
        elif (piece := replayable.take()) is not None:
            read += piece[0]
            most = max(most, len(read))
            assert arrived.startswith(read)
            assert not piece[1] or (body.complete and read == arrived)
        assert shared.kept <= min(limit, room)
    replayable.release()
    if not lost:
        rest, last = drained(replayable)
        assert read + rest == arrived
        assert last == body.complete
    assert shared.kept == 0


def test_a_body_as_large_as_the_limit_is_kept_and_a_larger_one_is_not() -> None:
    for size, kept in ((10, True), (11, False)):
        body = Body()
        replayable = ReplayableBody(body, 10, memory())
        body.feed(bytes(size))
        body.finish()
        assert drained(replayable) == (bytes(size), True)
        assert replayable.rewind() is kept
        assert replayable.take() == ((bytes(10), True) if kept else (b"", True))


def test_a_body_that_says_it_is_too_large_is_not_kept_at_all() -> None:
    shared = memory()
    body = Body(length=11)
    replayable = ReplayableBody(body, 10, shared)
    assert replayable.rewind()  # nothing was taken yet
    body.feed(b"a")
    assert replayable.take() == (b"a", False)
    assert shared.kept == 0
    assert not replayable.rewind()


def test_bodies_share_one_bound() -> None:
    shared = memory(10)
    bodies = [Body(), Body()]
    first, second = (ReplayableBody(body, 10, shared) for body in bodies)
    for body in bodies:
        body.feed(b"123456")
    first.take()
    second.take()
    assert (shared.kept, shared._refused.value, shared._gauge.value) == (6, 1, 6)
    assert (first.rewind(), second.rewind()) == (True, False)
    first.release()
    first.release()
    assert (shared.kept, shared._gauge.value) == (0, 0)


async def test_a_body_that_was_read_as_a_whole_keeps_itself() -> None:
    body = Body()
    body.feed(b"abc")
    body.finish()
    await body.read(10)
    replayable = ReplayableBody(body, 0, memory())
    for _ in range(3):
        assert drained(replayable) == (b"abc", True)
        assert replayable.rewind()


async def test_who_waits_gets_what_arrives() -> None:
    body = Body()
    replayable = ReplayableBody(body, 10, memory())
    waiting = asyncio.ensure_future(replayable.next())
    await asyncio.sleep(0)
    body.feed(b"abc")
    assert await waiting == (b"abc", False)
    assert replayable.rewind()
    assert await replayable.next() == (b"abc", False)
    body.fail(BodyTooLarge())
    with pytest.raises(BodyTooLarge):
        await replayable.next()


async def test_a_reader_that_was_cancelled_has_taken_nothing() -> None:
    """An attempt fails while its body is awaited; the bytes that came in that very moment are for the next one."""
    body = Body()
    replayable = ReplayableBody(body, 10, memory())
    waiting = asyncio.ensure_future(replayable.next())
    await asyncio.sleep(0)
    body.feed(b"abc")
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert replayable.take() == (b"abc", False)


@pytest.mark.parametrize("length", [6, None])
async def test_a_second_attempt_sends_the_whole_body_to_a_real_target(length: int | None) -> None:
    """A kept-alive connection dies after the first piece of the second request; the rest arrives only then."""
    heard: list[bytes] = []
    body = Body(length=length)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if heard:
            heard.append(await reader.readuntil(b"def" if length else b"0\r\n\r\n"))
            writer.write(OK)
            return
        writer.write(OK)
        await reader.readuntil(b"\r\n\r\n")
        heard.append(await reader.readuntil(b"abc"))
        body.feed(b"def")
        body.finish()

    async with calling(serve) as upstream:
        warm = await response_of(lambda caller: upstream.call(Request("GET", "/", Headers()), caller))
        assert warm.body == b"ok"
        request = Request("PUT", "/", Headers())
        shared = memory()
        replayable = request.body = ReplayableBody(body, 100, shared)
        body.feed(b"abc")
        response = await response_of(lambda caller: upstream.call(request, caller))
        assert response.status == 200
        assert shared.kept == 6
        replayable.release()
    first, second = (message.removeprefix(b"3\r\n") for message in heard)
    assert first == b"abc"
    assert second in (b"abcdef", b"abc\r\n3\r\ndef\r\n0\r\n\r\n", b"6\r\nabcdef\r\n0\r\n\r\n")


async def test_without_it_the_same_call_fails() -> None:
    """The control."""
    body = Body(length=6)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await reader.readuntil(b"abc")
        body.feed(b"def")
        body.finish()

    async with calling(serve) as upstream:
        warm = await response_of(lambda caller: upstream.call(Request("GET", "/", Headers()), caller))
        assert warm.body == b"ok"
        body.feed(b"abc")
        with pytest.raises(Exception, match="could not be reached"):
            await response_of(lambda caller: upstream.call(Request("PUT", "/", Headers(), body), caller))
