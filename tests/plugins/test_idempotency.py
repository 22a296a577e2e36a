from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from gateway.consumers import ConsumerOptions, Consumers, KeyOptions
from gateway.directory.directory import Directory
from gateway.exchange import Exchange, Request, Response
from gateway.headers import Headers
from gateway.keys import digest, new_key
from gateway.plugin import Plugin, PluginConfig
from gateway.problem import BadGateway, IdempotencyKeyInvalid
from plugins.idempotency import Idempotency
from plugins.idempotency.key import read_key
from plugins.key_auth import KeyAuth
from tests.fixtures.keyed import fate, made, other, play, post, result, slug, stage
from tests.fixtures.valkey import valkey, valkey_process
from tests.play import Stage

__all__ = ["other", "stage", "valkey", "valkey_process"]


class Outer(Plugin[PluginConfig]):
    """Stands before idempotency and says something of its own on every answer."""

    def on_response(self, exchange: Exchange, response: Response) -> None:
        response.headers["x-outer"] = exchange.id.hex()


async def test_the_same_key_gets_the_same_answer(stage: Stage, other: Stage):
    first = await play(stage, stage.make(Idempotency))
    assert first.seen_upstream is not None
    assert "idempotent-replayed" not in first.response.headers
    for place in (stage, other):
        again = await play(place, place.make(Idempotency))
        assert again.seen_upstream is None
        assert (again.response.status, again.body) == (201, b'{"order":7}')
        assert dict(again.response.headers.items()) == {
            "content-type": "application/json",
            "x-order": "7",
            "Idempotent-Replayed": "true",
        }
    assert (result(stage, "first"), result(stage, "replayed"), result(other, "replayed")) == (1, 1, 1)
    assert fate(stage, "kept") == 1


async def test_what_plugins_before_it_say_is_said_anew(stage: Stage):
    plugins = (stage.make(Outer), stage.make(Idempotency))
    played = [await stage.play(*plugins, request=post(), answer=made()) for _ in range(2)]
    assert [one.response.headers.getall("x-outer") for one in played] == [[one.exchange.id.hex()] for one in played]


async def test_no_key_and_other_methods_are_no_business_of_its(stage: Stage):
    plugin = stage.make(Idempotency)
    get = Request("GET", "/orders", Headers({"idempotency-key": "not a key, \u00fc"}))
    for request in (post(key=None), post(key=None), get, get):
        assert (await play(stage, plugin, request)).seen_upstream is not None


async def test_a_route_may_require_a_key(stage: Stage):
    plugin = stage.make(Idempotency, required=True)
    refused = await play(stage, plugin, post(key=None))
    assert (refused.response.status, slug(refused)) == (400, "idempotency-key-missing")
    assert refused.seen_upstream is None
    assert (await play(stage, plugin, Request("GET", "/", Headers({})))).seen_upstream is not None


@pytest.mark.parametrize(
    "request_",
    [
        lambda: post(b'{"a":1}'),
        lambda: post(target="/orders?x=1"),
        lambda: post(target="/other"),
        lambda: Request("PATCH", "/orders", Headers({"idempotency-key": "k1"}), post().body),
    ],
    ids=["body", "query", "path", "method"],
)
async def test_a_key_is_for_one_request(stage: Stage, other: Stage, request_: Any):
    await play(stage, stage.make(Idempotency))
    refused = await play(other, other.make(Idempotency), request_())
    assert (refused.response.status, slug(refused)) == (422, "idempotency-key-reused")
    assert refused.seen_upstream is None


async def test_a_request_without_a_body_has_a_fingerprint_too(stage: Stage):
    plugin = stage.make(Idempotency)
    bodiless = [Request("POST", "/orders", Headers({"idempotency-key": "k1"})) for _ in range(2)]
    assert [(await play(stage, plugin, one)).seen_upstream is None for one in bodiless] == [False, True]


async def test_a_body_that_was_read_goes_on_whole(stage: Stage):
    played = await play(stage, stage.make(Idempotency), post(b"x" * 1000))
    assert played.seen_upstream is not None
    assert played.seen_upstream.body.take() == (b"x" * 1000, True)


async def test_a_body_that_is_too_large_is_refused(stage: Stage):
    played = await play(stage, stage.make(Idempotency, max_request="1KiB"), post(b"x" * 1025))
    assert (played.response.status, played.seen_upstream) == (413, None)


# Whose key it is


def consumers(stage: Stage) -> dict[str, str]:
    """Keys of bob and eve of acme, and of joe of globex."""
    keys = {name: new_key("test") for name in ("bob", "eve", "joe")}
    options = [
        ConsumerOptions(
            name=name,
            organization="globex" if name == "joe" else "acme",
            keys=[KeyOptions(id=name, sha256=digest(key).hex())],
        )
        for name, key in keys.items()
    ]
    known = Consumers(options)
    stage.services = replace(stage.services, consumers=known, directory=Directory(known, None))
    return keys


@pytest.mark.parametrize(("scope", "sharing"), [("consumer", {"bob"}), ("organization", {"bob", "eve"})])
async def test_a_key_belongs_to_whoever_made_it(stage: Stage, scope: str, sharing: set[str]):
    keys = consumers(stage)
    plugins = (stage.make(KeyAuth), stage.make(Idempotency, scope=scope))
    await stage.play(*plugins, request=post(x_api_key=keys["bob"]), answer=made())
    again = {
        name
        for name in ("bob", "eve", "joe")
        if (await stage.play(*plugins, request=post(x_api_key=keys[name]), answer=made())).seen_upstream is None
    }
    assert again == sharing


async def test_strangers_are_told_apart_by_address(stage: Stage):
    plugin = stage.make(Idempotency)
    seen = []
    for address in ("192.0.2.1", "192.0.2.2", "192.0.2.1"):
        request = post()
        request.client = address
        seen.append((await play(stage, plugin, request)).seen_upstream is not None)
    assert seen == [True, True, False]


@pytest.mark.parametrize(("per_route", "served"), [(True, [True, True]), (False, [True, False])])
async def test_a_key_may_be_another_on_another_route(stage: Stage, per_route: bool, served: list[bool]):
    plugin = stage.make(Idempotency, per_route=per_route)
    found = []
    for route in ("one", "two"):
        exchange = Exchange(post(), stage.clock)
        exchange.route = route
        found.append(await plugin.on_request(exchange) is None)
        if found[-1]:
            exchange.response = made()
            plugin.on_response(exchange, exchange.response)
            plugin.on_chunk(exchange, b"{}", True)
            assert exchange.hold_last is not None
            await exchange.hold_last
    assert found == served


# What is kept


@pytest.mark.parametrize(("status", "kept"), [(200, True), (404, True), (422, True), (429, False), (500, False)])
async def test_an_answer_that_a_retry_may_better_is_not_kept(stage: Stage, other: Stage, status: int, kept: bool):
    await play(stage, stage.make(Idempotency), answer=Response(status, {}, b"first"))
    again = await play(other, other.make(Idempotency), answer=Response(200, {}, b"second"))
    assert again.body == (b"first" if kept else b"second")


async def test_statuses_can_be_chosen(stage: Stage):
    plugin = stage.make(Idempotency, on_status="200-599")
    assert [(await play(stage, plugin, answer=BadGateway())).seen_upstream is None for _ in range(2)] == [False, True]


async def test_after_a_failure_the_key_is_free_at_once(stage: Stage, other: Stage):
    await play(stage, stage.make(Idempotency, lock="1h"), answer=BadGateway())
    began = time.monotonic()
    assert (await play(other, other.make(Idempotency))).response.status == 201
    assert time.monotonic() - began < 4.0, "it would wait for 5 s"


async def test_an_answer_that_breaks_off_is_not_kept(stage: Stage):
    plugin = stage.make(Idempotency, lock="1h")
    await play(stage, plugin, pieces=[b"a", b"b"], broken="upstream_error")
    assert (await play(stage, plugin)).seen_upstream is not None


@pytest.mark.parametrize(
    ("headers", "pieces"),
    [
        ({"content-length": "1025"}, [b"x" * 1025]),
        ({}, [b"x" * 1000, b"x" * 25]),
        ({"content-type": "text/event-stream; charset=utf-8"}, [b"data: 1\n\n"]),
    ],
    ids=["declared", "streamed", "events"],
)
async def test_what_is_too_large_or_a_stream_of_events_is_not_kept(
    stage: Stage, headers: dict[str, str], pieces: list[bytes]
):
    plugin = stage.make(Idempotency, max_size="1KiB", lock="1h")
    for _ in range(2):
        played = await play(stage, plugin, answer=Response(200, headers, b""), pieces=pieces)
        assert played.seen_upstream is not None
        assert played.body == b"".join(pieces)
    assert fate(stage, "not_kept") == 2


async def test_an_answer_of_several_pieces_is_given_again_whole(stage: Stage):
    plugin = stage.make(Idempotency)
    await play(stage, plugin, pieces=[b"abc", b"de", b""])
    assert (await play(stage, plugin)).body == b"abcde"


async def test_an_answer_that_another_plugin_replaced_is_not_kept(stage: Stage):
    class Replacing(Plugin[PluginConfig]):
        def on_response(self, exchange: Exchange, response: Response) -> Response:
            return Response(200, {}, b"other")

    plugins = (stage.make(Replacing), stage.make(Idempotency))
    for _ in range(2):
        assert (await stage.play(*plugins, request=post(), answer=made())).seen_upstream is not None


async def test_an_answer_is_forgotten_in_time(stage: Stage):
    plugin = stage.make(Idempotency, ttl="1s")
    await play(stage, plugin)
    assert (await play(stage, plugin)).seen_upstream is None
    await asyncio.sleep(1.1)
    assert (await play(stage, plugin)).seen_upstream is not None


async def test_nothing_is_held_when_it_is_over(stage: Stage):
    plugin = stage.make(Idempotency)
    for answer in (made(), BadGateway(), made(Response(500, {}, b""))):
        await play(stage, plugin, post(key=f"k{id(answer)}"), answer=answer)
    gone = await play(stage, plugin, post(key="gone"), pieces=[b"a", b"b"], broken="client_gone")
    assert gone.exchange.outcome == "client_gone"
    held = stage.metrics.gauge("tallygate_idempotency_held", "Requests being served that hold their key.")
    assert (plugin._held, held.value) == ({}, 0)


# The field


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ('"8e03978e-40d5"', "8e03978e-40d5"),
        ("8e03978e-40d5", "8e03978e-40d5"),
        (r'"a \"b\" \\c"', r'a "b" \c'),
        ('"' + "x" * 255 + '"', "x" * 255),
        ("x" * 255, "x" * 255),
    ],
)
def test_a_key_comes_in_quotes_or_without(value: str, key: str):
    assert read_key([value]) == key


@pytest.mark.parametrize(
    "values",
    [
        [""],
        ['""'],
        ["a", "a"],
        ["a b"],
        ["a,b"],
        ["a;b"],
        ['"a'],
        ['a"b"'],
        [r'"a\b"'],
        ['"a";p=1'],
        ["\u00fc"],
        ['"\u00fc"'],
        ["x" * 256],
        ['"' + "x" * 256 + '"'],
    ],
)
def test_what_is_no_key_is_refused(values: list[str]):
    with pytest.raises(IdempotencyKeyInvalid):
        read_key(values)


def test_options_that_cannot_be(stage: Stage):
    with pytest.raises(ValueError, match="not a method"):
        stage.make(Idempotency, methods=["post"])
    with pytest.raises(ValueError, match="not the name of a header field"):
        stage.make(Idempotency, marker="a b")
