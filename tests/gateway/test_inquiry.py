"""A question of the gateway's own: what is sent, what comes back, and that nothing is waited for or read for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.body import BodyTooLarge
from gateway.inquiry import LARGEST_ANSWER, Inquiry
from gateway.problem import BadGateway
from gateway.upstream.call import response_of
from tests.fixtures.conversation import serving
from tests.fixtures.wire import Target


@asynccontextmanager
async def inquiring(target: Target, seconds: float = 5) -> AsyncIterator[Inquiry]:
    async with serving(target) as edge:
        yield Inquiry(
            "demo",
            "/ask?x=1",
            {"Content-Type": "text/plain"},
            within_seconds=seconds,
            forward=lambda request, _: response_of(lambda caller: edge.upstream.call(request, caller)),
        )


def answer(content: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status.encode(), len(content), content)


async def test_what_is_sent_and_what_comes_back() -> None:
    target = Target([answer(b"yes"), answer(b"no", "302 Found\r\nLocation: /elsewhere")])
    async with inquiring(target) as inquiry:
        assert await inquiry.post(b"well?") == (200, b"yes")
        assert await inquiry.post(b"") == (302, b"no")
    first, second = (piece for piece in target.text.split(b"POST ") if piece)
    head, _, content = first.partition(b"\r\n\r\n")
    line, *fields = head.split(b"\r\n")
    assert (line, content) == (b"/ask?x=1 HTTP/1.1", b"well?")
    assert sorted(field.partition(b":")[0] for field in fields) == [b"Content-Length", b"Content-Type", b"Host"]
    assert b"Content-Length: 0\r\n" in second


async def test_a_large_answer_is_not_read() -> None:
    async with inquiring(Target([answer(b"x" * LARGEST_ANSWER), answer(b"x" * (LARGEST_ANSWER + 1))])) as inquiry:
        assert await inquiry.post(b"") == (200, b"x" * LARGEST_ANSWER)
        with pytest.raises(BodyTooLarge):
            await inquiry.post(b"")


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nyes"])
async def test_nobody_waits_longer_than_that(begun: bytes) -> None:
    began = asyncio.get_running_loop().time()
    async with inquiring(Target([begun]), seconds=0.1) as inquiry:
        with pytest.raises(TimeoutError):
            await inquiry.post(b"")
    assert asyncio.get_running_loop().time() - began < 2


async def test_what_is_not_http_is_no_answer() -> None:
    async with inquiring(Target([b"nonsense\r\n\r\n"])) as inquiry:
        with pytest.raises(BadGateway):
            await inquiry.post(b"")
