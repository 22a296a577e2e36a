"""Clients that leave in the middle, with a close or with a reset, or that close their half only.

With `on_disconnect: cancel` the upstream call ends at once: its connection is closed, and what was delivered is booked,
the request itself is not. With `drain` the upstream finishes and what its answer says is booked. Both are
`client_gone`. Where nothing was delivered and nothing started there is nothing to book.
"""

from __future__ import annotations

import asyncio
from itertools import product

from tests.journeys.line import ask
from tests.journeys.node import Node, Row, until
from tests.journeys.upstream import BODY, Upstream

CLOSES_OR_RESETS = (False, True)


async def booked(node: Node, route: str, count: int = 1) -> list[Row]:
    """The rows of a route, once there are so many, and after a later request has come through: there are no more."""
    await node.booked([(await ask(node.port, "/quick")).id])

    async def enough() -> bool:
        return len([row for row in await node.books() if row.route == route]) >= count

    await until(enough)
    return [row for row in await node.books() if row.route == route]


async def test_cancel_before_the_head(node: Node, upstream: Upstream):
    await node.start()
    for path, reset in product(("/held", "/ai/held"), CLOSES_OR_RESETS):
        line = await node.line()
        line.send(path)
        call = await upstream.call()
        line.leave(reset=reset)
        await asyncio.wait_for(call.gone.wait(), 2)
    for row in await booked(node, "ai", 2):
        assert (row.outcome, row.status, row.quantities) == ("client_gone", 0, {"requests": 0, "tokens": 0})
    assert [row.outcome for row in await booked(node, "api", 2)] == ["ok", "ok"], "nothing was delivered for /held"
    assert await node.metric("tallygate_requests_total", 'status="0"') == 4
    assert await node.metric("tallygate_journal_open_starts") == 0


async def test_cancel_while_the_answer_streams(node: Node, upstream: Upstream):
    await node.start()
    for reset in CLOSES_OR_RESETS:
        line = await node.line()
        line.send("/held")
        call = await upstream.call()
        call.begin()
        call.say(b"seven..")
        await line.head()
        assert await line.piece() == b"seven.."
        line.leave(reset=reset)
        await asyncio.wait_for(call.gone.wait(), 2)
    gone = [row for row in await booked(node, "api", 3) if row.outcome != "ok"]
    assert len(gone) == 2
    for row in gone:
        assert (row.outcome, row.status, row.quantities) == ("client_gone", 200, {"requests": 0, "bytes_out": 7})


async def test_cancel_while_the_request_is_uploaded(node: Node, upstream: Upstream):
    await node.start()
    line = await node.line()
    line.send("/patient/held", "POST", "Content-Length: 100000\r\n", b"x" * 500)
    call = await upstream.call()
    line.leave()
    await asyncio.wait_for(call.gone.wait(), 2)  # though the route drains: what is half a request cannot be finished
    (row,) = await booked(node, "patient")
    assert row.outcome == "client_gone"
    assert row.quantities == {"requests": 0, "tokens": 0}


async def test_drain_finishes_the_call(node: Node, upstream: Upstream):
    """The client leaves before the head, or while the answer streams."""
    await node.start()
    for streams, reset in product((False, True), CLOSES_OR_RESETS):
        line = await node.line()
        line.send("/patient/held")
        call = await upstream.call()
        if streams:
            call.begin("application/json")
            call.say(BODY[:5])
            await line.head()
            assert await line.piece() == BODY[:5]
        line.leave(reset=reset)
        assert await call.lives(0.5)
        if streams:
            call.say(BODY[5:])
            call.end()
        else:
            call.answer()
    for row in await booked(node, "patient", 4):
        assert (row.outcome, row.status, row.quantities) == ("client_gone", 200, {"requests": 0, "tokens": 7})


async def test_an_upstream_that_breaks_off_after_the_client_left(node: Node, upstream: Upstream):
    await node.start()
    line = await node.line()
    line.send("/patient/held")
    call = await upstream.call()
    line.leave()
    assert await call.lives(0.2)
    call.break_off()
    (row,) = await booked(node, "patient")
    assert (row.outcome, row.status, row.quantities) == ("client_gone", 502, {"requests": 0})


async def test_a_client_that_closes_its_half_has_left(node: Node, upstream: Upstream):
    """As with nginx: who closes for writing is taken for gone; HTTP gives no way to tell."""
    await node.start()
    line = await node.line()
    line.send("/ai/held")
    call = await upstream.call()
    line.half_close()
    await asyncio.wait_for(call.gone.wait(), 2)
    assert await line.closed() == b""
    patient = await node.line()
    patient.send("/patient/held")
    call = await upstream.call()
    patient.half_close()
    assert await call.lives(0.5)
    call.answer()
    (row,) = await booked(node, "patient")
    assert (row.outcome, row.quantities) == ("client_gone", {"requests": 0, "tokens": 7})
    (row,) = await booked(node, "ai")
    assert (row.outcome, row.quantities) == ("client_gone", {"requests": 0, "tokens": 0})
