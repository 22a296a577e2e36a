"""Mirror: its share, never more at once than its bound, and nothing in what it sends leads back to the client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.background import Background
from gateway.exchange import Request
from gateway.headers import Headers
from gateway.metrics import Metrics
from gateway.options import FROM_FILE
from gateway.upstream.mirror import Mirror, MirrorOptions
from tests.fixtures.conversation import eventually
from tests.fixtures.upstream import OK, Serve, calling


@asynccontextmanager
async def mirroring(serve: Serve, **options: Any) -> AsyncIterator[tuple[Mirror, Callable[[str], float]]]:
    """A mirror before this upstream, and what it has counted by result."""
    background, metrics = Background(), Metrics(None)
    block = MirrorOptions.model_validate({"upstream": "next", **options}, context=FROM_FILE)
    async with calling(serve) as upstream:
        mirror = Mirror(block, "r", upstream, background=background, metrics=metrics, random=Random(1))
        family = metrics._families["tallygate_mirror_requests_total"][1]
        yield mirror, lambda result: family.labels("r", result).value
        await background.stop()


class Ears:
    """Hears what is sent, and answers each request, unless it is `silent`."""

    def __init__(self, *, silent: bool = False) -> None:
        self.heard = b""
        self._silent = silent

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65536):
            self.heard += piece
            if not self._silent:
                writer.write(OK)


def request(method: str = "GET") -> Request:
    asked = Request(method, "/books?x=1", Headers({"Accept": "text/plain", "X-Tallygate-Mirror": "0"}))
    asked.host, asked.identity = "api.example.com", b"X-Tallygate-Consumer: bob\r\n"
    asked.inform = lambda _status, _fields: pytest.fail("the client hears of it")
    return asked


@pytest.mark.parametrize("share", ["0.1%", "10%", "100%"])
async def test_its_share_is_chosen(share: str) -> None:
    async with mirroring(Ears(), share=share) as (mirror, _):
        chosen = sum(mirror.chooses() for _ in range(5000))
        assert chosen / 5000 == pytest.approx(float(share[:-1]) / 100, abs=0.015)


async def test_it_sends_the_same_again_and_says_that_it_is_a_mirror() -> None:
    ears = Ears()
    async with mirroring(ears) as (mirror, counted):
        mirror.send(request("POST"), b"hello")
        assert await eventually(lambda: counted("mirrored") == 1)
    head, _, body = ears.heard.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /books?x=1 HTTP/1.1"
    assert {b"Host: api.example.com", b"Content-Length: 5", b"Accept: text/plain"} < set(lines)
    assert [line for line in lines if b"Tallygate" in line] == [
        b"X-Tallygate-Consumer: bob",
        b"X-Tallygate-Mirror: 1",
    ]
    assert body == b"hello"


async def test_a_mirror_that_hangs_is_left_out_and_given_up() -> None:
    async with mirroring(Ears(silent=True), max_in_flight=2, timeout="200ms") as (mirror, counted):
        for _ in range(5):
            mirror.send(request(), b"")
        assert (mirror.in_flight, counted("left_out")) == (2, 3)
        assert await eventually(lambda: mirror.in_flight == 0)
        assert (counted("failed"), counted("mirrored")) == (2, 0)
        mirror.send(request(), None)
        mirror.send(request(), b"x" * (64 * 1024 + 1))
        assert counted("left_out") == 5, "its body could not be kept, or only for the sake of others"


async def test_its_answers_are_heard_out_and_its_connection_used_again() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while await reader.read(65536):
            writer.write(b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            await asyncio.sleep(0.02)
            writer.write(b"0\r\n\r\n")

    async with mirroring(serve) as (mirror, counted):
        for number in range(1, 4):
            mirror.send(request(), b"")
            assert await eventually(lambda number=number: counted("mirrored") == number)  # type: ignore[misc]
    assert connections == 1


@pytest.mark.parametrize(
    "block", [{"share": "101%"}, {"share": "0%"}, {"share": 0.5}, {"max_in_flight": 0}, {"timeout": "0s"}]
)
def test_what_cannot_be(block: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        MirrorOptions.model_validate({"upstream": "next", **block}, context=FROM_FILE)
