"""Keys that a control plane has published, at the plugin."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.exchange import Request
from gateway.keys import new_key
from plugins.key_auth import KeyAuth
from tests.fixtures.directory import KEY, NO_KEY, Process, process, publisher
from tests.fixtures.publishing import Publisher, record
from tests.fixtures.valkey import ValkeyServer, redis, valkey, valkey_process
from tests.play import KEY as FIXED_KEY
from tests.play import Stage, ask

__all__ = ["publisher", "redis", "valkey", "valkey_process"]

WRONG_CHECKSUM = KEY[:-1] + ("0" if KEY[-1] != "0" else "1")


@pytest.fixture
async def edge(valkey: ValkeyServer, publisher: Publisher) -> AsyncIterator[Process]:
    async with process(valkey.url) as edge:
        yield edge


@pytest.fixture
async def stage(tmp_path: Path, edge: Process) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path, published=edge.published)
    yield stage
    await stage.close()


def call(key: str, client: str = "192.0.2.1") -> Request:
    request = ask(x_api_key=key)
    request.client = client
    return request


async def test_a_published_key_lets_in_and_tells_the_upstream_who_calls(stage: Stage, edge: Process) -> None:
    plugin = stage.make(KeyAuth)
    for _ in range(2):  # from the store, and from memory
        played = await stage.play(plugin, request=call(KEY))
        assert played.response.status == 200
        assert played.exchange.consumer.key == "key_reports"
        assert played.exchange.consumer.plan_version == ""
        assert played.seen_upstream is not None
        assert played.seen_upstream.identity == (
            b"X-Tallygate-Consumer: reports\r\nX-Tallygate-Organization: acme\r\nX-Tallygate-User: u1\r\n"
        )
        assert KEY not in repr(played.seen_upstream.headers)
    assert edge.trips() == 1


async def test_a_key_that_does_not_exist_is_refused_like_no_key(stage: Stage) -> None:
    plugin = stage.make(KeyAuth)
    for request in (call(NO_KEY), call(NO_KEY), ask()):
        played = await stage.play(plugin, request=request)
        assert played.response.status == 401
        assert played.response.headers["www-authenticate"] == 'Bearer realm="tallygate"'
        assert b"detail" not in played.body


async def test_nobody_is_asked_about_a_wrong_checksum(stage: Stage, edge: Process) -> None:
    plugin = stage.make(KeyAuth, query="k")
    for request in (call(WRONG_CHECKSUM), ask(f"/?k={WRONG_CHECKSUM}"), call("x" * 46)):
        assert (await stage.play(plugin, request=request)).response.status == 401
    assert (await stage.play(plugin, request=call(FIXED_KEY))).response.status == 200
    assert edge.trips() == 0


async def test_where_nobody_can_tell_the_answer_is_503_and_never_401(
    stage: Stage, edge: Process, valkey: ValkeyServer
) -> None:
    plugin = stage.make(KeyAuth)
    assert (await stage.play(plugin, request=call(KEY))).response.status == 200
    valkey.flush()
    for key in (NO_KEY, new_key("live")):
        played = await stage.play(plugin, request=call(key))
        assert played.response.status == 503
        assert played.response.headers["retry-after"] == "1"
    assert (await stage.play(plugin, request=call(KEY))).response.status == 200
    assert (await stage.play(plugin, request=call(WRONG_CHECKSUM))).response.status == 401


async def test_a_key_is_refused_where_it_may_not_be_used(stage: Stage, publisher: Publisher) -> None:
    plugin = stage.make(KeyAuth)
    keys = {new_key("test"): 200, new_key("test"): 403, new_key("test"): 200, new_key("test"): 403}
    restricted = (
        record("route", routes=("r",)),
        record("other_route", routes=("other",)),
        record("network", networks=("192.0.2.0/24",)),
        record("other_network", networks=("198.51.100.0/24",)),
    )
    publisher.keys |= dict(zip(keys, restricted, strict=True))
    await publisher.put(*keys)
    for key, status in keys.items():
        for _ in range(2):
            played = await stage.play(plugin, request=call(key))
            assert played.response.status == status
            assert (played.exchange.consumer is None) == (status == 403)
            assert b"network" not in played.body
            assert b"route" not in played.body
