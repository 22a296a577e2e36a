"""Edge: what begins after a commit is served anew, what began before ends as it began, and nothing is kept for ever."""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.edge.edge import Edge
from gateway.edge.lasting import Lasting
from gateway.edge.runtime import BuildFailed, Runtime
from tests.fixtures.configuration import loaded
from tests.fixtures.conversation import eventually
from tests.fixtures.lasting import lasting_in
from tests.fixtures.plugin_folder import Write
from tests.journeys.line import Cut, Line, Unanswered
from tests.journeys.upstream import Upstream

BROKEN = """
from gateway.plugin import Plugin, PluginConfig

class Config(PluginConfig): ...

class Broken(Plugin[Config]):
    async def start(self):
        raise OSError("no such place")
"""


class Gateway:
    """An edge in this process, in front of an upstream that answers when it is told to.

    Each configuration is known by the name of the field in which it says the id of a request.
    """

    def __init__(self, lasting: Lasting, upstream: Upstream) -> None:
        self.upstream = upstream
        self.metrics = lasting.metrics
        self.edge = Edge(lasting)
        self.sockets = [bound(), bound()]
        self.ports = [sock.getsockname()[1] for sock in self.sockets]
        self._generation = 0

    async def prepare(self, field: str, *listeners: int, more: str = "", listener: str = "") -> int:
        """Prepare a configuration with these of the two listeners; its generation."""
        listeners = listeners or (0,)
        binds = "\n".join(f'  - {{bind: "127.0.0.1:{self.ports[place]}"{listener}}}' for place in listeners)
        text = f"""\
listeners:
{binds}
upstreams: {{u: {{targets: ["http://127.0.0.1:{self.upstream.port}"]}}}}
plugins: [request_id: {{header: {field}}}]
routes:
  - {{name: patient, match: {{path: /patient/*}}, upstream: u, on_disconnect: drain}}
  - {{name: all, upstream: u}}
{more}
"""
        self._generation += 1
        sockets = [self.sockets[place].dup() for place in listeners]
        try:
            await self.edge.prepare(self._generation, loaded(text), f"{self._generation:x}", sockets)
        except BuildFailed:
            for sock in sockets:
                sock.close()
            raise
        return self._generation

    async def take(self, field: str, *listeners: int, more: str = "", listener: str = "") -> None:
        assert await self.edge.commit(await self.prepare(field, *listeners, more=more, listener=listener))

    async def retired(self, number: int) -> bool:
        """Whether there are so many earlier configurations, before long."""
        return await eventually(lambda: len(self.edge._retired) == number)


def bound() -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    return sock


@pytest.fixture
async def gateway(tmp_path: Path, here: Path) -> AsyncIterator[Gateway]:
    upstream = Upstream()
    await upstream.start()
    async with lasting_in(tmp_path / "journal") as lasting:
        gateway = Gateway(lasting, upstream)
        await gateway.take("x-one")
        yield gateway
        await gateway.edge.stop(0.2)
    for sock in gateway.sockets:
        sock.close()
    await upstream.stop()


async def test_the_next_request_on_a_connection_is_served_anew(gateway: Gateway) -> None:
    line = await Line.open(gateway.ports[0])
    assert "x-one" in (await line.ask("/")).fields
    await gateway.take("x-two")
    assert "x-two" in (await line.ask("/")).fields
    assert await gateway.retired(0)
    assert len(gateway.upstream.transports) == 1, "the pool is the same one"
    line.leave()


async def test_what_is_prepared_changes_nothing_and_can_be_forgotten(gateway: Gateway) -> None:
    line = await Line.open(gateway.ports[0])
    generation = await gateway.prepare("x-two", 0, 1)
    assert "x-one" in (await line.ask("/")).fields
    with pytest.raises(ConnectionRefusedError):
        await Line.open(gateway.ports[1])
    assert not await gateway.edge.commit(generation + 1)
    await gateway.edge.abort()
    assert not await gateway.edge.commit(generation)
    assert "x-one" in (await line.ask("/")).fields
    line.leave()


async def test_what_cannot_be_built_changes_nothing(gateway: Gateway, write_plugin: Write) -> None:
    write_plugin("broken", BROKEN)
    more = "  - {name: b, match: {path: /b}, upstream: u, plugins: [broken: ]}"
    with pytest.raises(BuildFailed, match="plugin broken of route b: OSError: no such place"):
        await gateway.take("x-two", more=more)
    line = await Line.open(gateway.ports[0])
    assert "x-one" in (await line.ask("/")).fields
    line.leave()


async def test_a_request_under_way_ends_as_it_began(gateway: Gateway) -> None:
    line = await Line.open(gateway.ports[0])
    line.send("/held")
    call = await gateway.upstream.call()
    await gateway.take("x-two")
    await gateway.take("x-three")
    assert await gateway.retired(1)
    call.answer()
    assert "x-one" in (await line.answer()).fields
    assert "x-three" in (await line.ask("/")).fields
    assert await gateway.retired(0)
    line.leave()


async def test_calls_that_began_before_a_reload_are_reported_too(gateway: Gateway) -> None:
    line, other = await Line.open(gateway.ports[0]), await Line.open(gateway.ports[0])
    line.send("/held")
    first = await gateway.upstream.call()
    await gateway.take("x-two", more="trusted_proxies: [10.0.0.0/8]")  # which makes a new upstream
    other.send("/held")
    second = await gateway.upstream.call()
    (report,) = gateway.edge.report()
    (target,) = report.targets
    assert (report.name, target.name) == ("u", f"http://127.0.0.1:{gateway.upstream.port}")
    assert (target.in_flight, target.latency_seconds) == (2, None)
    for call, asking in ((first, line), (second, other)):
        call.answer()
        await asking.answer()
    assert await gateway.retired(0)
    (report,) = gateway.edge.report()
    assert report.targets[0].in_flight == 0
    assert report.targets[0].latency_seconds is not None
    line.leave()
    other.leave()


async def test_a_stream_goes_on_under_its_own_configuration(gateway: Gateway) -> None:
    line = await Line.open(gateway.ports[0])
    line.send("/held")
    call = await gateway.upstream.call()
    call.begin()
    assert "x-one" in (await line.head())[1]
    for number in range(20):
        await gateway.take(f"x-{number}")
        call.say(b"%d" % number)
        assert await line.piece() == b"%d" % number
    assert await gateway.retired(1)
    call.end()
    assert await line.piece() == b""
    assert await gateway.retired(0)
    line.leave()


async def test_a_request_is_under_way_although_its_client_has_left(gateway: Gateway) -> None:
    line = await Line.open(gateway.ports[0])
    line.send("/patient/held")
    call = await gateway.upstream.call()
    line.leave(reset=True)
    await gateway.take("x-two")
    await asyncio.sleep(0.3)
    assert await gateway.retired(1)
    assert await call.lives(0.1)
    call.answer()
    assert await gateway.retired(0)


async def test_beyond_the_limit_the_oldest_is_cut(gateway: Gateway) -> None:
    more = "reload: {max_retired: 2}"
    lines, calls = [], []
    for number in range(3):
        await gateway.take(f"x-{number}", more=more)
        lines.append(await Line.open(gateway.ports[0]))
        lines[-1].send("/held")
        calls.append(await gateway.upstream.call())
    await gateway.take("x-last", more=more)
    with pytest.raises(Unanswered):
        await lines[0].head()
    assert not await calls[0].lives(1.0)
    assert await gateway.retired(2)
    cut = gateway.metrics.counter(
        "tallygate_config_retired_cut_total", "Earlier configurations whose last requests were broken off."
    )
    assert cut.value == 1
    for line, call in zip(lines[1:], calls[1:], strict=True):
        call.answer()
        assert (await line.answer()).status == 200
    for line in lines:
        line.leave()


async def test_a_listener_is_added_and_removed(gateway: Gateway) -> None:
    first, second = gateway.ports
    await gateway.take("x-two", 0, 1)
    idle, busy, stays = await Line.open(first), await Line.open(first), await Line.open(second)
    await idle.ask("/")
    busy.send("/held")
    call = await gateway.upstream.call()
    assert "x-two" in (await stays.ask("/")).fields
    await gateway.take("x-three", 1)
    assert await idle.closed() == b""
    gateway.sockets[0].close()  # as the supervisor closes its own
    with pytest.raises(ConnectionRefusedError):
        await Line.open(first)
    call.answer()
    answer = await busy.answer()
    assert ("x-two" in answer.fields, answer.fields["connection"]) == (True, "close")
    assert "x-three" in (await stays.ask("/")).fields
    assert await eventually(lambda: not gateway.edge._leaving)
    assert await gateway.retired(0)
    for line in (idle, busy, stays):
        line.leave()


async def test_the_limits_of_a_listener_count_for_who_comes_now(gateway: Gateway) -> None:
    first = await Line.open(gateway.ports[0])
    await first.ask("/")
    await gateway.take("x-two", listener=", max_connections: 1")
    assert "x-two" in (await first.ask("/")).fields
    second = await Line.open(gateway.ports[0])
    with pytest.raises((Unanswered, Cut)):
        await second.ask("/")
    first.leave()
    second.leave()


async def test_hundreds_of_reloads_leave_one_runtime(gateway: Gateway) -> None:
    line = await Line.open(gateway.ports[0])
    runtimes: weakref.WeakSet[Runtime] = weakref.WeakSet()
    tasks = len(asyncio.all_tasks())
    for number in range(300):
        other = f"  - {{name: r{number % 3}, match: {{path: /{number}}}, upstream: u}}"
        await gateway.take(f"x-{number % 7}", 0, *([1] if number % 2 else []), more=other)
        assert gateway.edge._runtime is not None
        runtimes.add(gateway.edge._runtime)
        assert (await line.ask("/")).status == 200
    await gateway.take("x-last")
    assert await gateway.retired(0)
    assert await eventually(lambda: len(asyncio.all_tasks()) == tasks and not gateway.edge._garbage)
    gc.collect()
    assert len(runtimes) == 0
    line.leave()
