"""Spans on their way to a collector: a real upstream, whatever it does."""

from __future__ import annotations

import json
import random
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.background import Background
from gateway.exchange import Request, Response
from gateway.spans import ExportOptions, SpanSink
from gateway.upstream.call import response_of
from tests.fixtures.conversation import Scripted, eventually, serving, silence
from tests.fixtures.wire import OK, Edge, Target

REFUSED = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
LATER = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"


def reply(document: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(document)}\r\n\r\n{document}".encode()


@asynccontextmanager
async def sending(target: Target, **options: Any) -> AsyncIterator[tuple[SpanSink, Edge]]:
    """A sink whose collector is this target."""
    background = Background()
    async with serving(target) as edge:

        def forward(request: Request, _upstream: str) -> Awaitable[Response]:
            return response_of(lambda caller: edge.upstream.call(request, caller))

        sink = SpanSink(
            ExportOptions.model_validate({"upstream": "u", **options}), forward=forward, metrics=edge.metrics
        )
        sink.start(background)
        try:
            yield sink, edge
        finally:
            await sink.stop(0.2)
            await background.stop()


def batches(target: Target) -> list[list[dict[str, Any]]]:
    """The spans of each request that the collector heard whole."""
    found = []
    for heard in target.heard:
        for piece in bytes(heard).split(b"POST ")[1:]:
            document = json.loads(piece.partition(b"\r\n\r\n")[2])
            found.append(document["resourceSpans"][0]["scopeSpans"][0]["spans"])
    return found


def count(edge: Edge, reason: str | None = None) -> float:
    """Spans sent, or dropped for a reason."""
    if reason is None:
        return edge.metrics.counter("tallygate_spans_sent_total", "Spans that the collector took.").value
    family = edge.metrics.counter("tallygate_spans_dropped_total", "Spans that were not sent, by reason.", ("reason",))
    return family.labels(reason).value


async def test_a_batch_is_an_otlp_request():
    target = Target([reply("{}")])
    async with sending(target, headers={"api-key": "k"}, service="gw", path="/otlp", batch=2) as (sink, edge):
        sink.write(b'{"name":"one"}')
        sink.write(b'{"name":"two"}')
        assert await eventually(lambda: count(edge) == 2)
    head, _, body = target.text.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /otlp HTTP/1.1\r\n")
    assert b"\r\nContent-Type: application/json\r\n" in head
    assert b"api-key: k" in head.split(b"\r\n")
    assert b"forwarded" not in head.lower(), "it is a question of the gateway's own"
    (resource,) = json.loads(body)["resourceSpans"]
    assert resource["resource"] == {"attributes": [{"key": "service.name", "value": {"stringValue": "gw"}}]}
    assert resource["scopeSpans"] == [{"scope": {"name": "tallygate"}, "spans": [{"name": "one"}, {"name": "two"}]}]


async def test_a_full_batch_leaves_at_once_and_a_span_alone_after_the_interval():
    target = Target([reply("{}")])
    async with sending(target, batch=3, interval="300ms") as (sink, edge):
        for _ in range(7):
            sink.write(b"{}")
        assert await eventually(lambda: count(edge) == 6, 0.25)
        assert await eventually(lambda: count(edge) == 7)
    assert [len(batch) for batch in batches(target)] == [3, 3, 1]


async def test_what_waits_is_sent_at_the_end():
    target = Target([reply("{}")])
    async with sending(target, batch=2, interval="1h") as (sink, edge):
        for _ in range(3):
            sink.write(b"{}")
        await sink.stop(1.0)
        assert count(edge) == 3


async def test_beyond_the_queue_spans_are_dropped():
    async with sending(Target([reply("{}")]), queue=4, batch=4, interval="1h") as (sink, edge):
        for _ in range(6):  # in one turn of the loop: nothing is sent between
            sink.write(b"{}")
        assert count(edge, "queue_full") == 2
        assert await eventually(lambda: count(edge) == 4)


async def test_a_silent_collector_holds_up_nobody():
    async with sending(Scripted(silence), queue=2, batch=1, interval="10ms") as (sink, edge):
        for _ in range(1000):
            sink.write(b"{}")
        assert await eventually(lambda: bool(edge.target.heard))
        began = time.monotonic()
        await sink.stop(0.1)
        assert time.monotonic() - began < 3.0
        assert count(edge) == 0
        assert count(edge, "queue_full") + count(edge, "unsent") == 1000


async def test_a_collector_that_is_away_is_asked_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(random, "uniform", lambda low, high: 0.0)

    def fails_twice(heard: bytes) -> bytes | None:
        return LATER.replace(b"Retry-After: 1\r\n", b"") if heard.count(b"POST ") < 3 else reply("{}")

    target = Target([fails_twice])
    async with sending(target, batch=1) as (sink, edge):
        sink.write(b"{}")
        assert await eventually(lambda: count(edge) == 1)
    assert len(batches(target)) == 3
    assert count(edge, "unsent") == 0


async def test_after_some_attempts_a_batch_is_dropped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(random, "uniform", lambda low, high: 0.0)
    nowhere = {"targets": ["http://127.0.0.1:1"]}
    background = Background()
    async with serving(Target(), upstream=nowhere) as edge:
        sink = SpanSink(
            ExportOptions(upstream="u", batch=1),
            forward=lambda request, _: response_of(lambda caller: edge.upstream.call(request, caller)),
            metrics=edge.metrics,
        )
        sink.start(background)
        sink.write(b"{}")
        assert await eventually(lambda: count(edge, "unsent") == 1)
        await sink.stop(0.1)
        await background.stop()
    (complaint,) = [record.message for record in caplog.records if record.name == "gateway.spans"]
    assert complaint.startswith("the collector of spans, upstream u: no answer: The upstream could not be reached")


async def test_retry_after_is_waited_for():
    target = Target([LATER, reply("{}")])
    async with sending(target, batch=1) as (sink, edge):
        began = time.monotonic()
        sink.write(b"{}")
        assert await eventually(lambda: count(edge) == 1)
        assert 0.9 < time.monotonic() - began < 3.0


@pytest.mark.parametrize(
    ("answer", "sent", "rejected"),
    [
        (REFUSED, 0, 2),
        (reply('{"partialSuccess":{"rejectedSpans":"1","errorMessage":"too old"}}'), 1, 1),
        (reply('{"partialSuccess":{"rejectedSpans":1}}'), 1, 1),
        (reply('{"partialSuccess":{"rejectedSpans":"99"}}'), 0, 2),
        (reply('{"partialSuccess":{"rejectedSpans":"-1"}}'), 2, 0),
        (reply('{"partialSuccess":{"rejectedSpans":"x"}}'), 2, 0),
        (reply('{"partialSuccess":{}}'), 2, 0),
        (reply("[]"), 2, 0),
        (OK, 2, 0),
    ],
)
async def test_what_the_collector_says_is_counted(answer: bytes, sent: int, rejected: int):
    async with sending(Target([answer]), batch=2) as (sink, edge):
        sink.write(b"{}")
        sink.write(b"{}")
        assert await eventually(lambda: count(edge) + count(edge, "rejected") == 2)
        assert (count(edge), count(edge, "rejected")) == (sent, rejected)


def test_options_that_cannot_be():
    with pytest.raises(ValueError, match="batch must not be larger than queue"):
        ExportOptions(upstream="u", queue=1, batch=2)
    with pytest.raises(ValueError, match="not the name of a header field"):
        ExportOptions(upstream="u", headers={"a b": "c"})
