"""What every plugin can rely on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Coroutine

import pytest

from gateway.body import Body
from gateway.chain import Chain
from gateway.exchange import Exchange, Request, Response
from gateway.headers import Headers
from gateway.plugin import Plugin, PluginConfig
from gateway.problem import Overloaded
from tests.play import Stage


class Config(PluginConfig):
    name: str = "a"


class Diary(Plugin[Config]):
    """Writes down when it is called."""

    pages: list[str]

    def on_request(self, exchange: Exchange) -> Response | None:
        self.pages.append(f"{self.config.name} in")
        return None

    def on_response(self, exchange: Exchange, response: Response) -> None:
        self.pages.append(f"{self.config.name} out")

    def on_chunk(self, exchange: Exchange, chunk: bytes, last: bool) -> bytes:
        self.pages.append(f"{self.config.name} {'last' if last else 'chunk'}")
        return chunk + self.config.name.encode()

    def on_sending(self, exchange: Exchange, size: int, last: bool) -> None:
        self.pages.append(f"{self.config.name} {'last ' if last else ''}{size}")

    def on_finish(self, exchange: Exchange) -> None:
        self.pages.append(f"{self.config.name} end")


def diaries(stage: Stage, names: str) -> tuple[list[Diary], list[str]]:
    pages: list[str] = []
    found = []
    for name in names:
        diary = stage.make(Diary, name=name)
        assert isinstance(diary, Diary)
        diary.pages = pages
        found.append(diary)
    return found, pages


class Answering(Plugin[Config]):
    def on_request(self, exchange: Exchange) -> Response:
        return Response(299, {}, b"mine")


class Raising(Plugin[Config]):
    def on_request(self, exchange: Exchange) -> None:
        raise Overloaded("for now") if self.config.name == "problem" else RuntimeError("secret text")


class Replacing(Plugin[Config]):
    def on_response(self, exchange: Exchange, response: Response) -> Response:
        return Response(298, {}, b"other")


class Waiting(Plugin[Config]):
    async def on_request(self, exchange: Exchange) -> None:
        return None


class SeldomWaiting(Plugin[Config]):
    def on_request(self, exchange: Exchange) -> Awaitable[Response | None] | None:
        return self._ask(exchange.request.target) if exchange.request.target != "/known" else None

    async def _ask(self, target: str) -> Response | None:
        await asyncio.sleep(0)
        if target == "/bug":
            return "text"  # type: ignore[return-value]
        return Response(298) if target == "/answered" else None


class AsyncChunk(Plugin[Config]):
    async def on_chunk(self, exchange: Exchange, chunk: bytes, last: bool) -> bytes:  # type: ignore[override]
        return chunk


async def test_in_listed_order_and_back_in_reverse(stage: Stage):
    plugins, pages = diaries(stage, "ab")
    played = await stage.play(*plugins, pieces=[b"1", b"2"])
    ways = "a in,b in,b out,a out,b chunk,a chunk,b 3,a 3,b last,a last,b last 3,a last 3,b end,a end"
    assert pages == ways.split(",")
    assert played.body == b"1ba2ba"


async def test_an_answer_passes_back_only_through_those_before_its_maker(stage: Stage):
    (first, second), pages = diaries(stage, "ab")
    played = await stage.play(first, stage.make(Answering), second)
    assert pages == ["a in", "a out", "a last", "a last 5", "a end"]
    assert (played.response.status, played.body) == (299, b"minea")


async def test_a_problem_is_an_answer(stage: Stage):
    (first,), pages = diaries(stage, "a")
    played = await stage.play(first, stage.make(Raising, name="problem"))
    assert played.response.status == 503
    assert b"for now" in played.body
    assert pages == ["a in", "a out", "a last", f"a last {len(played.body)}", "a end"]


async def test_a_bug_is_a_500_without_its_text(stage: Stage):
    played = await stage.play(stage.make(Raising))
    assert played.response.status == 500
    document = json.loads(played.body)
    assert document["title"] == "The gateway failed to do its work"
    assert b"secret" not in played.body


async def test_a_response_that_is_replaced_gives_up_its_body(stage: Stage):
    class Target:
        abandoned = 0

        def abandon_body(self) -> None:
            self.abandoned += 1

    target = Target()
    body = Body(target, None)  # type: ignore[arg-type]
    played = await stage.play(stage.make(Replacing), answer=Response(200, {}, body))
    assert played.response.status == 298
    assert target.abandoned == 1


async def test_hooks_may_wait(stage: Stage):
    plugin = stage.make(Waiting)
    assert Chain([plugin]).waits
    assert (await stage.play(plugin)).response.status == 200


@pytest.mark.parametrize(("target", "status"), [("/known", 200), ("/asked", 200), ("/answered", 298), ("/bug", 500)])
async def test_a_plain_hook_may_return_what_it_waits_for(stage: Stage, target: str, status: int):
    (first, last), pages = diaries(stage, "ab")
    played = await stage.play(first, stage.make(SeldomWaiting), last, request=Request("GET", target, Headers()))
    assert played.response.status == status
    assert [page for page in pages if "in" in page] == (["a in", "b in"] if status == 200 else ["a in"])


async def test_only_who_waits_makes_the_way_in_a_coroutine(stage: Stage):
    (last,), pages = diaries(stage, "a")
    chain = Chain([stage.make(SeldomWaiting), last])
    known, asked = (Exchange(Request("GET", target, Headers()), stage.clock) for target in ("/known", "/asked"))
    assert chain.enter(known) is None
    entering = chain.enter(asked)
    assert (asked.reached, pages) == (0, ["a in"])
    assert isinstance(entering, Coroutine)
    assert await entering is None
    assert (asked.reached, pages) == (2, ["a in", "a in"])


def test_after_the_first_byte_nothing_may_wait(stage: Stage):
    with pytest.raises(TypeError, match="must be a plain def"):
        Chain([stage.make(AsyncChunk)])
