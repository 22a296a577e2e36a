"""Runtime: what a new one has from the one before it, what it begins anew, and that a failure leaves nothing behind."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.config import GatewayConfig
from gateway.runtime import BuildFailed, Lasting, Runtime
from gateway.traffic import Traffic
from tests.fixtures.configuration import loaded
from tests.fixtures.plugin_folder import Write
from tests.play import Stage

COUNTING = '''
"""Counts requests, over reloads that leave its options alone."""

from gateway.plugin import Plugin, PluginConfig
from gateway.services import Services

STORY = []


class Config(PluginConfig):
    """Options."""

    step: int = 1
    """What a request counts."""
    trouble: str = ""
    """Where it breaks."""


class Counting(Plugin[Config]):
    """Counts."""

    def __init__(self, config, services):
        super().__init__(config, services)
        self.count = [0]
        if config.trouble == "making":
            raise ValueError("password=hunter2 is no good")

    def inherit(self, previous):
        STORY.append("inherits")
        self.count = previous.count

    async def start(self):
        STORY.append(f"starts {self.config.step}")
        if self.config.trouble == "starting":
            raise OSError("no such place")

    async def stop(self):
        STORY.append(f"stops {self.config.step}")
        if self.config.trouble == "stopping":
            raise RuntimeError("it is stuck")

    def on_request(self, exchange):
        self.count[0] += self.config.step
'''
TEXT = """\
listeners: [{{bind: "127.0.0.1:8080"}}]
trusted_proxies: {proxies}
upstreams:
  books: {{targets: [{targets}]}}
  other: {{targets: ["http://127.0.0.1:9"]}}
routes:
  - name: {route}
    upstream: books
    plugins: [counting: {{{counting}}}]
consumers: [{{name: {consumer}, organization: acme}}]
"""


def configured(
    route: str = "r",
    counting: str = "",
    targets: str = '"http://127.0.0.1:1", "http://127.0.0.1:2"',
    proxies: str = "[]",
    consumer: str = "bob",
) -> GatewayConfig:
    return loaded(TEXT.format(route=route, counting=counting, targets=targets, proxies=proxies, consumer=consumer))


@pytest.fixture
async def lasting(tmp_path: Path, here: Path, write_plugin: Write) -> AsyncIterator[Lasting]:
    write_plugin("counting", COUNTING)
    stage = Stage(tmp_path / "journal")
    yield Lasting(stage.clock, stage.metrics, Traffic(stage.metrics), stage.usage.journal, stage.access_log)  # type: ignore[arg-type]
    await stage.close()


def plugin(runtime: Runtime, route: str = "r"):
    return runtime._plugins[route, "counting"].plugin


def story(runtime: Runtime) -> list[str]:
    return sys.modules["plugins.counting"].STORY


async def pair(lasting: Lasting, before: GatewayConfig, after: GatewayConfig) -> tuple[Runtime, Runtime]:
    first = await Runtime.build(before, lasting)
    return first, await Runtime.build(after, lasting, first)


async def end(*runtimes: Runtime) -> None:
    for runtime in runtimes:
        await runtime.stop(list)


async def test_what_has_not_changed_is_the_same_object(lasting: Lasting) -> None:
    first, second = await pair(lasting, configured(), configured(counting="step: 2"))
    assert second.upstreams == first.upstreams
    assert second.forwarding is first.forwarding
    assert second.consumers is first.consumers
    assert second.delivery is not first.delivery
    await end(first, second)


async def test_an_upstream_that_has_changed_is_new_and_only_that_one(lasting: Lasting) -> None:
    first, second = await pair(lasting, configured(), configured(targets='"http://127.0.0.1:2"', consumer="ben"))
    assert second.upstreams["books"] is not first.upstreams["books"]
    assert second.upstreams["other"] is first.upstreams["other"]
    assert second.consumers is not first.consumers
    await end(first, second)


async def test_upstreams_know_whom_to_trust(lasting: Lasting) -> None:
    first, second = await pair(lasting, configured(), configured(proxies="[10.0.0.0/8]"))
    assert second.forwarding.trusts("10.1.1.1")
    assert not first.forwarding.trusts("10.1.1.1")
    assert second.upstreams["other"] is not first.upstreams["other"]
    assert second.upstreams["other"].forwarding is second.forwarding
    await end(first, second)


@pytest.mark.parametrize(
    ("targets", "next_one"),
    [
        ('"http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3"', 2),
        ('"http://127.0.0.1:3", "http://127.0.0.1:2"', 2),
        ('"http://127.0.0.1:3", "http://127.0.0.1:1"', 1),
        ('"http://127.0.0.1:3", "http://127.0.0.1:4"', 3),
    ],
)
async def test_the_turn_of_a_target_outlives_a_change_of_the_others(
    lasting: Lasting, targets: str, next_one: int
) -> None:
    first = await Runtime.build(configured(), lasting)
    assert first.upstreams["books"]._balancer.pick().port == 1  # so that 2 is next
    second = await Runtime.build(configured(targets=targets), lasting, first)
    assert second.upstreams["books"]._balancer.pick().port == next_one
    assert first.upstreams["books"]._balancer.pick().port == 2
    await end(first, second)


async def test_a_plugin_inherits_from_the_one_in_its_place_with_its_options(lasting: Lasting) -> None:
    first = await Runtime.build(configured(), lasting)
    plugin(first).count[0] = 7
    same = await Runtime.build(configured(consumer="ben"), lasting, first)
    assert plugin(same).count is plugin(first).count
    other_options = await Runtime.build(configured(counting="step: 2"), lasting, first)
    assert plugin(other_options).count == [0]
    other_route = await Runtime.build(configured(route="s"), lasting, first)
    assert plugin(other_route, "s").count == [0]
    assert story(first) == ["starts 1", "inherits", "starts 1", "starts 2", "starts 1"]
    await end(first, same, other_options, other_route)


@pytest.mark.parametrize(
    ("counting", "reason"),
    [
        ("trouble: making", "plugin counting of route r: ValueError: password=[redacted] is no good"),
        ("trouble: starting", "plugin counting of route r: OSError: no such place"),
    ],
)
async def test_what_cannot_be_built_says_why_and_leaves_the_one_before_alone(
    lasting: Lasting, counting: str, reason: str
) -> None:
    first = await Runtime.build(configured(), lasting)
    before = asyncio.all_tasks()
    with pytest.raises(BuildFailed) as refused:
        await Runtime.build(configured(counting=counting, targets='"http://127.0.0.1:5"'), lasting, first)
    assert str(refused.value) == reason
    assert asyncio.all_tasks() == before
    assert "stops 1" not in story(first)
    assert first.upstreams["books"].pool.idle == 0
    assert len(first.upstreams) == 2
    await end(first)
    assert story(first)[-1] == "stops 1"


async def test_a_build_that_is_given_up_leaves_nothing_behind(lasting: Lasting, write_plugin: Write) -> None:
    first = await Runtime.build(configured(), lasting)
    module = COUNTING.replace('STORY.append(f"starts {self.config.step}")', "import asyncio; await asyncio.sleep(60)")
    write_plugin("slow", module)
    text = TEXT.replace("- name", "- {{name: s, upstream: other, match: {{path: /s}}, plugins: [slow: ]}}\n  - name")
    config = loaded(text.format(route="r", counting="", targets='"http://127.0.0.1:5"', proxies="[]", consumer="bob"))
    before = asyncio.all_tasks()
    building = asyncio.create_task(Runtime.build(config, lasting, first))
    await asyncio.sleep(0.05)
    building.cancel()
    await asyncio.wait({building})
    assert building.cancelled()
    assert asyncio.all_tasks() == before
    await end(first)


async def test_an_upstream_is_stopped_by_the_last_one_that_has_it(lasting: Lasting) -> None:
    first, second = await pair(lasting, configured(), configured(targets='"http://127.0.0.1:5"'))
    shared, gone = first.upstreams["other"], first.upstreams["books"]
    await first.stop(lambda: [second])
    assert not shared.pool._closed
    assert gone.pool._closed
    await second.stop(list)
    assert shared.pool._closed


async def test_a_plugin_that_does_not_stop_well_is_no_obstacle(
    lasting: Lasting, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = await Runtime.build(configured(counting="trouble: stopping"), lasting)
    upstream = runtime.upstreams["books"]
    await runtime.stop(list)
    assert upstream.pool._closed
    assert "plugin counting of route r did not stop well" in caplog.text
