"""Several requests with one key, in several processes, some of which die; and a store that hangs or is away."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from gateway.exchange import Response
from plugins.idempotency import Idempotency
from tests.fixtures.conversation import eventually
from tests.fixtures.keyed import Slow, fate, made, other, play, post, result, slug, stage
from tests.fixtures.valkey import ValkeyServer, valkey, valkey_process
from tests.play import Stage

__all__ = ["other", "stage", "valkey", "valkey_process"]


async def test_those_that_come_meanwhile_wait_for_the_answer(stage: Stage, other: Stage):
    slow = stage.make(Slow), other.make(Slow)
    plugins = stage.make(Idempotency), other.make(Idempotency)
    playing = [
        asyncio.create_task(play(place, plugins[at], None, slow[at]))
        for at, place in ((at, (stage, other)[at]) for at in (0, 1) * 10)
    ]
    await asyncio.wait([asyncio.create_task(one.reached.wait()) for one in slow], return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in playing)
    for one in slow:
        one.opened.set()
    played = await asyncio.gather(*playing)
    assert sum(one.seen_upstream is not None for one in played) == 1
    assert {(one.response.status, one.body) for one in played} == {(201, b'{"order":7}')}
    for one in slow:
        one.reached.set()


async def test_waiting_ends(stage: Stage, other: Stage):
    slow = stage.make(Slow)
    first = asyncio.create_task(play(stage, stage.make(Idempotency), None, slow))
    await slow.reached.wait()
    began = time.monotonic()
    busy = await play(other, other.make(Idempotency, wait="300ms"))
    assert 0.1 < time.monotonic() - began < 3.0
    assert (busy.response.status, slug(busy)) == (409, "idempotency-key-busy")
    assert busy.response.headers["retry-after"] == "1"
    other_request = await play(other, other.make(Idempotency), post(b"other"))
    assert other_request.response.status == 422  # the fingerprint is known as soon as the key is taken
    slow.opened.set()
    await first
    assert (await play(other, other.make(Idempotency))).response.status == 201


async def test_a_request_that_lives_long_keeps_its_key(stage: Stage, other: Stage):
    slow, plugin = stage.make(Slow), stage.make(Idempotency, lock="1s")
    await plugin.start()
    first = asyncio.create_task(play(stage, plugin, None, slow))
    await slow.reached.wait()
    busy = await play(other, other.make(Idempotency, lock="1s", wait="2.5s"))
    assert busy.response.status == 409
    slow.opened.set()
    await first


async def test_the_key_of_a_process_that_died_is_free_after_a_while(stage: Stage, other: Stage):
    """Nothing prolongs the claim, as if its process had been killed; when it wakes up again, its answer is too late."""
    slow = stage.make(Slow)
    first = asyncio.create_task(play(stage, stage.make(Idempotency, lock="1s"), None, slow))
    await slow.reached.wait()
    second = await play(other, other.make(Idempotency), answer=made(Response(200, {}, b"second")))
    assert (second.seen_upstream is not None, second.body) == (True, b"second")
    slow.opened.set()
    assert (await first).body == b'{"order":7}'
    assert fate(stage, "late") == 1
    assert (await play(other, other.make(Idempotency))).body == b"second"


# Without the store


@pytest.mark.parametrize(("policy", "status"), [("refuse", 503), ("pass", 201)])
async def test_a_store_that_hangs_costs_its_deadline(stage: Stage, valkey: ValkeyServer, policy: str, status: int):
    plugin = stage.make(Idempotency, without_store=policy)
    await play(stage, plugin)
    valkey.pause()
    began = time.monotonic()
    played = await asyncio.gather(*(play(stage, plugin) for _ in range(30)))
    assert time.monotonic() - began < 3.0  # 0.2 s, not 30 times that
    valkey.resume()
    assert {one.response.status for one in played} == {status}
    if policy == "refuse":
        assert slug(played[0]) == "store-down"
        assert played[0].response.headers["retry-after"] == "1"
    assert result(stage, "no_store") == 30


async def test_a_claim_that_nobody_heard_of_is_given_back(stage: Stage, other: Stage, valkey: ValkeyServer):
    """The store takes it after the gateway has given up."""
    plugin = stage.make(Idempotency, lock="1h", wait="1s")
    valkey.pause()
    assert slug(await play(stage, plugin)) == "store-down"
    left = asyncio.create_task(play(stage, plugin, post(key="k2")))
    await asyncio.sleep(0.05)
    left.cancel()
    valkey.resume()
    await asyncio.wait([left])
    for key in ("k1", "k2"):
        assert (await play(other, other.make(Idempotency, wait="1s"), post(key=key))).response.status == 201


async def test_a_store_that_goes_away_meanwhile_takes_no_answer_along(stage: Stage, valkey: ValkeyServer):
    slow, plugin = stage.make(Slow), stage.make(Idempotency)
    first = asyncio.create_task(play(stage, plugin, None, slow))
    await slow.reached.wait()
    valkey.pause()
    slow.opened.set()
    began = time.monotonic()
    assert (await first).response.status == 201
    assert 0.15 < time.monotonic() - began < 3.0  # the last byte waited for the store, as long as that may take
    valkey.resume()
    assert await eventually(lambda: fate(stage, "failed") == 1)


async def test_a_store_that_is_not_there_is_told_from_a_key_that_is_wrong(tmp_path: Path):
    stage = Stage(tmp_path / "nowhere")
    assert slug(await play(stage, stage.make(Idempotency))) == "store-down"
    await stage.close()
