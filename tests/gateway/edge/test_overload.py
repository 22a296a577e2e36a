"""Overload: an event loop that cannot keep up refuses a share of its requests, cheaply, and recovers by itself."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

from tests.fixtures.conversation import calling, eventually
from tests.fixtures.gateway import Gateway, gateway_before
from tests.fixtures.wire import Target

SHEDDING = "shedding: {lag: 50ms, interval: 500ms, max_share: 100%}\n"
REST = """\
plugins: [request_id: ]
upstreams: {u: {targets: ["<u>"]}}
routes:
  - {name: all, upstream: u}
  - {name: health, match: {path: /health}, upstream: u, sheddable: false}
"""
ALL, HEALTH = (b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path for path in (b"/", b"/health"))


async def hold_up(gateway: Gateway, share: float) -> None:
    """Keep the event loop from its work until so many requests are to be refused."""
    give_up_at = time.monotonic() + 20
    shedding = gateway.runtime.shedding
    assert shedding is not None
    while shedding.share < share:
        assert time.monotonic() < give_up_at
        time.sleep(0.1)  # noqa: ASYNC251 - this is the trouble
        await asyncio.sleep(0)


async def test_requests_are_refused_while_the_loop_is_late_and_health_never_is(here: Path) -> None:
    async with gateway_before(here / "journal", SHEDDING + REST, u=Target()) as gateway, calling(gateway) as client:
        await client.say(ALL)
        assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
        await hold_up(gateway, 1.0)
        refusals = []
        for _ in range(5):
            await client.say(ALL)
            refusals.append(await client.answer())
            assert await gateway.status(HEALTH) == 200
        refused = [answer for answer in refusals if answer.startswith(b"HTTP/1.1 503 ")]
        assert refused
        assert all(b"\r\nretry-after: " in answer.lower() for answer in refused)
        assert json.loads(refused[0].partition(b"\r\n\r\n")[2])["detail"] == "The gateway is overloaded."
        assert b"x-request-id" not in refused[0].lower(), "no plugin has seen it"
        assert gateway.counted("tallygate_shed_requests_total") == len(refused)
        await gateway.take(SHEDDING.replace("500ms", "600ms") + REST)
        assert gateway.runtime.shedding is not None
        assert gateway.runtime.shedding.share > 0.5, "a reload does not begin anew"
        assert await eventually(lambda: gateway.counted("tallygate_shedding_share") > 0.5)
        await gateway.take(REST)
        assert [await gateway.status(ALL) for _ in range(20)] == [200] * 20, (
            "nothing is refused where it is not asked for"
        )
        assert await eventually(lambda: gateway.counted("tallygate_shedding_share") == 0.0)


async def test_it_is_over_when_the_loop_has_caught_up(here: Path) -> None:
    text = SHEDDING.replace("100%", "50%") + REST
    async with gateway_before(here / "journal", text, u=Target()) as gateway:
        await hold_up(gateway, 0.05)
        shedding = gateway.runtime.shedding
        assert shedding is not None
        assert await eventually(lambda: shedding.share == 0.0, 10.0)
        assert [await gateway.status(ALL) for _ in range(20)] == [200] * 20
