from __future__ import annotations

import re
from typing import Any

import pytest

from gateway.exchange import Exchange, Response
from gateway.plugin import Plugin, PluginConfig
from plugins.key_auth import KeyAuth
from plugins.server_timing import ServerTiming
from tests.fixtures.wire import Edge, Target
from tests.play import KEY, Played, Stage, ask

# W3C Server Timing §3, with RFC 9110's quoting left out: names, and durations in milliseconds.
SYNTAX = re.compile(r"[a-z]+;dur=\d+\.\d(, [a-z]+;dur=\d+\.\d)*")


class Waited(Plugin[PluginConfig]):
    """Stands in for the upstream's time."""

    def on_request(self, exchange: Exchange) -> None:
        exchange.started_at -= 0.5
        exchange.upstream_sent_at = exchange.started_at + 0.1
        exchange.upstream_headed_at = exchange.upstream_sent_at + 0.25


async def told(stage: Stage, *, key: str = KEY, client: str = "192.0.2.1", **options: Any) -> Played:
    request = ask(x_api_key=key) if key else ask()
    request.client = client
    plugins = (stage.make(ServerTiming, **options), stage.make(KeyAuth), stage.make(Waited))
    return await stage.play(*plugins, request=request)


async def test_a_known_consumer_hears_where_the_time_went(stage: Stage):
    said = (await told(stage)).response.headers["server-timing"]
    assert SYNTAX.fullmatch(said)
    durations = {name: float(value) for name, value in re.findall(r"(\w+);dur=([\d.]+)", said)}
    assert durations["upstream"] == 250.0
    assert 250.0 <= durations["gateway"] < 400.0


@pytest.mark.parametrize(
    ("options", "known", "hears"),
    [
        ({}, False, False),
        ({"consumers": ["bob"]}, True, True),
        ({"consumers": ["ann"]}, True, False),
        ({"consumers": []}, True, False),
        ({"consumers": [], "networks": ["192.0.2.0/24"]}, False, True),
        ({"networks": ["10.0.0.0/8"]}, False, False),
        ({"everyone": True}, False, True),
    ],
)
async def test_only_who_may_know_hears_it(stage: Stage, options: dict[str, Any], known: bool, hears: bool):
    played = await told(stage, key=KEY if known else "", **options)
    assert ("server-timing" in played.response.headers) is hears


async def test_what_no_upstream_answered_is_all_the_gateways_time(stage: Stage):
    said = (await told(stage, key="", everyone=True)).response.headers["server-timing"]
    assert re.fullmatch(r"gateway;dur=\d+\.\d", said)


async def test_an_upstream_that_never_answered_had_its_time(stage: Stage):
    class Silent(Waited):
        def on_request(self, exchange: Exchange) -> None:
            super().on_request(exchange)
            exchange.upstream_headed_at = 0.0
            raise TimeoutError

    played = await stage.play(stage.make(ServerTiming, everyone=True), stage.make(Silent))
    durations = re.findall(r"dur=([\d.]+)", played.response.headers["server-timing"])
    assert float(durations[0]) < float(durations[1])


async def test_what_the_upstream_says_stays(stage: Stage):
    answer = Response(200, {"server-timing": "db;dur=5"})
    played = await stage.play(stage.make(ServerTiming, everyone=True), answer=answer)
    assert [value.partition(";")[0] for value in played.response.headers.getall("server-timing")] == ["db", "gateway"]


async def test_on_the_wire_the_upstream_has_its_share(stage: Stage):
    edge = Edge(Target(), (stage.make(ServerTiming, everyone=True),))
    await edge.start()
    answer = await edge.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await edge.stop()
    assert re.search(rb"\r\nServer-Timing: gateway;dur=\d+\.\d, upstream;dur=\d+\.\d\r\n", answer)
