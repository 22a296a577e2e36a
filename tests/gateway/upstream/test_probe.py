"""Probes: verdicts as a pure decision, and questions over real connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.background import Background
from gateway.fetch import Fetch
from gateway.metrics import Metrics
from gateway.options import FROM_FILE
from gateway.upstream.probe import ProbeOptions, Prober, Verdict
from gateway.upstream.target import Target, TargetOptions


@given(st.lists(st.booleans(), min_size=1), st.integers(1, 4), st.integers(1, 4))
def test_a_verdict_changes_after_so_many_answers_in_a_row(answers: list[bool], healthy: int, unhealthy: int):
    options = ProbeOptions(healthy_after=healthy, unhealthy_after=unhealthy)
    verdict = Verdict()
    expected = answers[0]
    assert verdict.note("" if expected else "down", options) is not expected
    for place, good in enumerate(answers[1:], 2):
        needed = healthy if good else unhealthy
        flips = good is not expected and place > needed and answers[place - needed : place] == [good] * needed
        before = expected
        expected = good if flips else expected
        assert verdict.note("" if good else "down", options) is (expected is not before)
        assert verdict.healthy is expected


@pytest.mark.parametrize(
    "options",
    [
        {"path": "health"},
        {"path": "/a b"},
        {"path": "/é"},
        {"path": "/a\r\nx: y"},
        {"path": "/a#b"},
        {"interval": "1ms"},
        {"timeout": "0s"},
        {"healthy_after": 0},
        {"statuses": "2xx"},
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any]):
    with pytest.raises(ValidationError):
        ProbeOptions.model_validate(options, context=FROM_FILE)


class Service:
    """A target that answers every probe with `status`; silent while that is 0."""

    status = 200

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.connections = 0

    async def start(self) -> Target:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        return Target(TargetOptions(url=f"http://api.internal:{port}"), address="127.0.0.1")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            self.heard.append(await reader.readuntil(b"\r\n\r\n"))
            if self.status:
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % self.status)
            await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass
        writer.close()

    def stop(self) -> None:
        self._server.close()


class Stage:
    """A prober with everything it needs; `answers` is what it told."""

    def __init__(self, **options: Any) -> None:
        self.background = Background()
        self.fetch = Fetch()
        self.metrics = Metrics(None)
        self.answers: asyncio.Queue[tuple[Target, str]] = asyncio.Queue()
        self.prober = Prober(
            "u",
            ProbeOptions.model_validate({"path": "/health", "interval": 0.1, "timeout": 0.1, **options}),
            lambda target, reason: self.answers.put_nowait((target, reason)),
            fetch=self.fetch,
            tls=None,
            rng=Random(1),
            background=self.background,
            metrics=self.metrics,
        )

    async def answer(self) -> tuple[Target, str]:
        return await asyncio.wait_for(self.answers.get(), 2.0)

    async def stop(self) -> None:
        await self.background.stop()
        await self.fetch.close()
        await asyncio.sleep(0.02)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    yield service
    service.stop()


async def test_a_target_is_asked_again_and_again_over_new_connections(service: Service):
    target, stage = await service.start(), Stage()
    stage.prober.watch([target])
    for status, reason in ((200, ""), (503, "status 503"), (0, "no answer within 0.1 s"), (200, "")):
        service.status = status
        answers = [(await stage.answer())[1] for _ in range(2)]
        assert answers[1] == reason, "the first may have been under way"
    await stage.stop()
    assert service.connections == len(service.heard) >= 8
    assert service.heard[0].startswith(b"GET /health HTTP/1.1\r\n")
    assert f"host: {target.authority}\r\n".encode() in service.heard[0].lower()
    probes = stage.metrics.counter(
        "tallygate_probes_total", "Probes of an upstream's targets, by outcome: good, bad.", ("upstream", "outcome")
    )
    assert probes.labels("u", "good").value + probes.labels("u", "bad").value >= 8
    assert probes.labels("u", "bad").value >= 2


async def test_a_target_that_is_gone_is_unwell():
    service = Service()
    target, stage = await service.start(), Stage()
    service.stop()
    assert await stage.prober.ask(target) != ""
    await stage.stop()


async def test_only_expected_statuses_are_good(service: Service):
    target, stage = await service.start(), Stage(statuses=["200-299", 404])
    for status, good in ((204, True), (404, True), (302, False), (500, False)):
        service.status = status
        assert (await stage.prober.ask(target) == "") is good
    await stage.stop()


async def test_who_is_watched_follows_the_list(service: Service):
    other = Service()
    one, two, stage = await service.start(), await other.start(), Stage()
    stage.prober.watch([one])
    assert (await stage.answer())[0] is one
    stage.prober.watch([two])
    while (await stage.answer())[0] is one:  # what was under way may still come
        pass
    assert len(stage.background) == 1
    assert {(await stage.answer())[0] for _ in range(3)} == {two}
    stage.prober.watch([])
    await stage.stop()
    other.stop()


async def test_without_a_path_nobody_is_asked(service: Service):
    target, stage = await service.start(), Stage(path=None)
    stage.prober.watch([target])
    assert len(stage.background) == 0
    await stage.stop()
