from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from gateway.exchange import Response
from gateway.metering.event import VERSION, UsageEvent, encode_event
from gateway.metering.segment import LARGEST_PAYLOAD
from gateway.plugin import Plugin, PluginConfig
from gateway.problem import BadGateway, JournalFull, Overloaded
from plugins.key_auth import KeyAuth
from plugins.metering import MOST_METERS, Metering
from tests.play import KEY, Played, Stage, ask

TOKENS = {"name": "tokens", "from": "response_json", "path": "usage.total_tokens", "estimate": 7}
UNITS = {"name": "units", "from": "response_header", "header": "x-units", "estimate": 3}


class Refusing(Plugin[PluginConfig]):
    """Stands behind metering and refuses."""

    def on_request(self, exchange):
        raise Overloaded


async def meter(stage: Stage, meters: list[Any], **scene: Any) -> Played:
    plugin = stage.make(Metering, meters=meters, **scene.pop("options", {}))
    return await stage.play(stage.make(KeyAuth), plugin, request=ask(x_api_key=KEY), **scene)


def promised(stage: Stage) -> int:
    return stage.usage.journal._promised


async def test_a_whole_answer_is_one_event(stage: Stage):
    played = await meter(stage, ["requests", "bytes_in", "bytes_out"], pieces=[b"abc", b"de"])
    (event,) = stage.events()
    assert event.event_id == played.exchange.id
    assert event.quantities == {"requests": 1, "bytes_in": 0, "bytes_out": 5}
    assert (event.organization, event.subscription, event.key, event.route) == ("acme", "s1", "k1", "r")
    assert (event.upstream, event.status, event.outcome, event.kind) == ("u", 200, "ok", "usage")
    assert event.admitted_at <= event.occurred_at
    assert promised(stage) == 0


async def test_without_a_consumer_nothing_is_metered(stage: Stage):
    await stage.play(stage.make(Metering, meters=["requests"]))
    assert stage.events() == []
    assert promised(stage) == 0


@pytest.mark.parametrize(("status", "booked"), [(200, 1), (399, 1), (400, 0), (500, 0)])
async def test_the_status_decides(stage: Stage, status: int, booked: int):
    await meter(stage, ["requests"], answer=Response(status, {}, b"x"))
    assert len(stage.events()) == booked
    assert promised(stage) == 0


async def test_refusals_and_upstream_failures_give_the_room_back(stage: Stage):
    await meter(stage, ["requests"], answer=BadGateway())
    plugin = stage.make(Metering, meters=["requests"])
    await stage.play(stage.make(KeyAuth), plugin, stage.make(Refusing), request=ask(x_api_key=KEY))
    assert stage.events() == []
    assert promised(stage) == 0


@pytest.mark.parametrize("outcome", ["client_gone", "upstream_error"])
async def test_what_was_delivered_of_a_broken_answer_is_booked(stage: Stage, outcome: str):
    await meter(stage, ["requests", "bytes_out"], pieces=[b"abc", b"de"], broken=outcome)
    (event,) = stage.events()
    assert event.quantities == {"requests": 0, "bytes_out": 3}
    assert event.outcome == outcome
    assert promised(stage) == 0


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"content-type": "application/json"}, b'{"usage":{"total_tokens":42}}'),
        ({"content-type": "application/vnd.x+json; charset=utf-8"}, b'{"usage":{"total_tokens":42.0}}'),
        (
            {"content-type": "application/json", "content-encoding": "gzip"},
            gzip.compress(b'{"usage":{"total_tokens":42}}'),
        ),
        (
            {"content-type": "application/json", "content-encoding": "deflate"},
            zlib.compress(b'{"usage":{"total_tokens":42}}'),
        ),
        (
            {"content-type": "text/event-stream"},
            b'data: {"x":1}\n\ndata: {"usage":{"total_tokens":42}}\n\ndata: {"usage":null}\n\ndata: [DONE]\n\n',
        ),
        ({"content-type": "application/x-ndjson"}, b'{"usage":{"total_tokens":1}}\n{"usage":{"total_tokens":42}}\n'),
    ],
    ids=["json", "a kind of json", "gzip", "deflate", "events", "lines"],
)
@pytest.mark.parametrize("size", [1, 5, 10_000])
async def test_a_number_in_the_answer_is_read(stage: Stage, headers: dict[str, str], body: bytes, size: int):
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    played = await meter(stage, ["requests", TOKENS], answer=Response(200, headers, b""), pieces=pieces)
    assert played.body == body
    (event,) = stage.events()
    assert event.quantities == {"requests": 1, "tokens": 42}


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"content-type": "text/plain"}, b'{"usage":{"total_tokens":42}}'),
        ({"content-type": "application/json"}, b"{"),
        ({"content-type": "application/json"}, b'{"usage":{"total_tokens":-1}}'),
        ({"content-type": "application/json"}, b'{"usage":{"total_tokens":true}}'),
        ({"content-type": "application/json"}, b'{"usage":{"total_tokens":1.5}}'),
        ({"content-type": "application/json"}, b"[" * 100_000),
        ({"content-type": "application/json", "content-encoding": "br"}, b"?"),
        ({"content-type": "application/json", "content-encoding": "gzip"}, b"no gzip"),
        ({"content-type": "application/json"}, b'"' + b"x" * 2**20 + b'"'),
        ({"content-type": "application/json", "content-encoding": "gzip"}, gzip.compress(b"0" * 2**24)),
    ],
)
async def test_what_cannot_be_read_is_estimated(stage: Stage, headers: dict[str, str], body: bytes):
    await meter(stage, ["requests", TOKENS], answer=Response(200, headers, body))
    (event,) = stage.events()
    assert event.quantities == {"requests": 1, "tokens": 7}


@pytest.mark.parametrize(("value", "units"), [("12", 12), ("0", 0), ("-1", 3), ("1.5", 3), ("", 3), ("9" * 30, 3)])
async def test_a_number_in_a_header_is_read_or_estimated(stage: Stage, value: str, units: int):
    await meter(stage, ["requests", UNITS], answer=Response(200, {"x-units": value}, b""))
    (event,) = stage.events()
    assert event.quantities == {"requests": 1, "units": units}


async def test_a_call_whose_cost_only_the_answer_tells_always_gets_a_final(stage: Stage):
    """Else adoption would book the estimate of a call that was refused."""
    await meter(stage, ["requests", TOKENS], answer=Response(500, {}, b""))
    await meter(stage, ["requests", TOKENS], answer=BadGateway())
    assert [sum(event.quantities.values()) for event in stage.events()] == [0, 0]
    assert promised(stage) == 0
    assert stage.usage.journal._open == {}


async def test_an_answer_that_ends_with_the_connection_is_booked_before_its_first_byte(stage: Stage):
    played = await meter(stage, ["requests", "bytes_out"], pieces=[b"abc", b"de"], until_close=True)
    first, second = stage.events()
    assert (first.kind, first.quantities) == ("usage", {"requests": 1, "bytes_out": 0})
    assert (second.kind, second.ref, second.quantities) == ("amend", played.exchange.id, {"bytes_out": 5})
    assert second.event_id != first.event_id


async def test_a_full_journal_refuses_before_the_upstream_is_called(tmp_path: Path):
    stage = Stage(tmp_path / "small", budget=128 * 1024)
    taken = 0
    with pytest.raises(JournalFull):  # noqa: PT012 - as many as fit
        while True:
            stage.services.journal.reserve()
            taken += 1
    played = await meter(stage, ["requests"])
    assert played.response.status == 503
    assert json.loads(played.body)["type"].endswith("/journal-full")
    assert played.seen_upstream is None
    for _ in range(taken):
        stage.services.journal.release()
    await stage.close()


def test_a_meter_listed_twice_is_refused(stage: Stage):
    with pytest.raises(ValueError, match="listed twice"):
        stage.make(Metering, meters=["requests", "requests"])


def test_the_largest_event_fits_into_a_record():
    """Names are as long as their options allow; a plan's version is bounded as a subscription is."""
    quantities = {f"{number:02}" + "m" * 62: 2**63 - 1 for number in range(MOST_METERS)}
    longest = "n" * 128
    event = UsageEvent(
        VERSION, b"i" * 16, "amend", 2**53, 2**53, longest, longest, longest, longest, "r" * 64, "u" * 64,
        longest, longest, 599, "upstream_error", quantities, b"r" * 16,
    )  # fmt: skip
    assert len(encode_event(event)) <= LARGEST_PAYLOAD


@pytest.mark.parametrize(
    ("accepted", "asked"), [("br", "identity"), ("gzip, br", "gzip"), ("gzip;q=0, br", "identity")]
)
async def test_a_client_cannot_choose_what_it_pays_by_choosing_what_cannot_be_read(
    stage: Stage, accepted: str, asked: str
):
    plugin = stage.make(Metering, meters=[{"name": "tokens", "from": "response_json", "path": "n"}])
    request = ask(x_api_key=KEY, accept_encoding=accepted, range="bytes=0-1")
    played = await stage.play(stage.make(KeyAuth), plugin, request=request)
    assert played.seen_upstream is not None
    assert played.seen_upstream.headers.getall("accept-encoding") == [asked]
    assert "range" not in played.seen_upstream.headers
