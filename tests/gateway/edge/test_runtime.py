"""Runtime: what a new one has from the one before it, what it begins anew, and that a failure leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.config.configuration import GatewayConfig
from gateway.edge.lasting import Lasting
from gateway.edge.runtime import BuildFailed, Runtime
from gateway.upstream.target import Target
from gateway.upstream.upstream import Upstream
from tests.fixtures.configuration import loaded
from tests.fixtures.lasting import lasting_in
from tests.fixtures.plugin_folder import Write
from tests.play import ask

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
  books: {{targets: [{targets}], {resilience}}}
  other: {{targets: ["http://127.0.0.1:9"]}}
routes:
  - name: {route}
    upstream: books
    plugins: [counting: {{{counting}}}]
roles: {roles}
consumers: [{{name: {consumer}, organization: acme}}]
"""


def configured(
    route: str = "r",
    counting: str = "",
    targets: str = '"http://127.0.0.1:1", "http://127.0.0.1:2"',
    proxies: str = "[]",
    consumer: str = "bob",
    roles: str = "{}",
    resilience: str = "max_waiting: 9",
) -> GatewayConfig:
    return loaded(
        TEXT.format(
            route=route,
            counting=counting,
            targets=targets,
            proxies=proxies,
            consumer=consumer,
            roles=roles,
            resilience=resilience,
        )
    )


@pytest.fixture
async def lasting(tmp_path: Path, here: Path, write_plugin: Write) -> AsyncIterator[Lasting]:
    write_plugin("counting", COUNTING)
    async with lasting_in(tmp_path / "journal") as lasting:
        yield lasting


def pick(runtime: Runtime) -> Target:
    target = runtime.upstreams["books"].targets.pick(ask(), 0.0)
    assert target is not None
    return target


def fails(upstream: Upstream, port: int) -> None:
    """A call of the target with this port fails: its circuit opens, and it is ejected."""
    (target,) = [target for target in upstream.targets.all if target.port == port]
    now = upstream.time()
    assert upstream.circuits is not None
    assert upstream.circuits.to(target).admit(now) == 0.0
    upstream.circuits.to(target).record(False, now, now)
    upstream.targets.sent(target, now, 1)
    upstream.targets.answered(target, None, 0.1, False, 1)


def open_circuits(upstream: Upstream) -> set[int]:
    assert upstream.circuits is not None
    return {target.port for target in upstream.targets.all if upstream.circuits.to(target).state == "open"}


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


async def test_consumers_are_made_anew_where_a_role_says_something_else(lasting: Lasting) -> None:
    first, second = await pair(lasting, configured(), configured(roles="{reader: ['books:read']}"))
    assert first.consumers.permissions_of(["reader"]) == ()
    assert second.consumers.permissions_of(["reader"]) == ("books:read",)
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
    ],
)
async def test_the_turn_of_a_target_outlives_a_change_of_the_others(
    lasting: Lasting, targets: str, next_one: int
) -> None:
    first = await Runtime.build(configured(), lasting)
    while pick(first).port != 1:  # so that 2 is next
        pass
    second = await Runtime.build(configured(targets=targets), lasting, first)
    assert pick(second).port == next_one
    await end(first, second)


CIRCUIT = (
    "circuit_breaker: {minimum_requests: 1}, health: {passive: {failures: 1}}, retry: {}, bulkhead: {max_in_flight: 5}"
)


async def test_what_is_known_of_a_target_outlives_a_change_of_its_upstream(lasting: Lasting) -> None:
    first = await Runtime.build(configured(resilience=CIRCUIT), lasting)
    before = first.upstreams["books"]
    fails(before, port=1)
    assert open_circuits(before) == {1}
    second = await Runtime.build(
        configured(resilience=CIRCUIT, targets='"http://127.0.0.1:1", "http://127.0.0.1:3"'), lasting, first
    )
    after = second.upstreams["books"]
    assert after is not before
    assert open_circuits(after) == {1}
    assert pick(second).port == 3, "the other one is ejected"
    assert (after.retry, after.bulkhead, after.circuits) == (before.retry, before.bulkhead, before.circuits)
    await first.stop(lambda: [second])
    fails(after, port=3)
    third = await Runtime.build(configured(resilience=CIRCUIT.replace("5", "6")), lasting, second)
    assert open_circuits(third.upstreams["books"]) == {1}, "who has gone is forgotten"
    assert third.upstreams["books"].bulkhead is not after.bulkhead
    assert third.upstreams["books"].retry is after.retry
    await end(second, third)


async def test_what_was_known_of_targets_that_are_gone_is_forgotten(lasting: Lasting) -> None:
    runtime = None
    for port in range(1, 50):
        config = configured(resilience=CIRCUIT, targets=f'"http://127.0.0.1:{port}"')
        previous, runtime = runtime, await Runtime.build(config, lasting, runtime)
        fails(runtime.upstreams["books"], port)
        if previous is not None:
            await previous.stop(list)
    assert runtime is not None
    previous = None
    gc.collect()
    circuits = runtime.upstreams["books"].circuits
    assert circuits is not None
    assert len(circuits._to_targets) == 1
    await end(runtime)
    gc.collect()
    assert len(lasting.states) < 5


async def test_a_circuit_with_other_options_begins_anew(lasting: Lasting) -> None:
    first = await Runtime.build(configured(resilience=CIRCUIT), lasting)
    fails(first.upstreams["books"], port=1)
    other = CIRCUIT.replace("minimum_requests: 1", "minimum_requests: 2")
    second = await Runtime.build(configured(resilience=other), lasting, first)
    assert open_circuits(second.upstreams["books"]) == set()
    await end(first, second)


async def test_gauges_show_what_all_that_serve_come_to(lasting: Lasting) -> None:
    gauge = lasting.metrics.gauge(
        "tallygate_upstream_targets", "Targets of the upstream, by state.", ("upstream", "state")
    ).labels("books", "available")
    first, second = await pair(lasting, configured(), configured(targets='"http://127.0.0.1:1"'))
    assert gauge.value == 3
    await first.stop(lambda: [second])
    assert gauge.value == 1
    await second.stop(list)
    assert gauge.value == 0


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
    configured(targets='"http://127.0.0.1:5"')
    slow = "- {name: s, upstream: other, match: {path: /s}, plugins: [slow: ]}\n  - name"
    config = loaded(Path("gateway.yaml").read_text().replace("- name", slow, 1))  # noqa: ASYNC240
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
