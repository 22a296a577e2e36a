"""A process that cannot keep up refuses part of what it is asked, quickly, and goes on doing the rest of its work."""

from __future__ import annotations

from collections import Counter

from tests.journeys.line import Load
from tests.journeys.node import Node, metered, until


async def test_overload_is_shed_and_health_is_not(node: Node):
    node.config["shedding"] = {"lag": "50ms", "interval": "500ms", "max_share": "80%"}
    held_up = [*metered("requests"), {"tests.journeys.late": {"milliseconds": 25}}]
    node.config["routes"][:0] = [
        {"name": "late", "match": {"path": "/late/*"}, "upstream": "behind", "plugins": held_up},
        {"name": "health", "match": {"path": "/health"}, "upstream": "behind", "sheddable": False},
    ]
    await node.start()

    async def sheds() -> bool:
        return await node.metric("tallygate_shedding_share") > 0.3

    async def is_calm() -> bool:
        return await node.metric("tallygate_shedding_share") == 0.0

    async with Load(node.port, "/late/quick", clients=16) as load, Load(node.port, "/health", clients=1) as health:
        await until(sheds, 20)
        await load.answered(100)
        await health.answered(5)
    assert load.failures == health.failures == []
    statuses = Counter(answer.status for answer in load.answers)
    assert set(statuses) == {200, 503}
    assert {answer.status for answer in health.answers} == {200}, "it is never refused"
    refused = [answer for answer in load.answers if answer.status == 503]
    assert all(int(answer.fields["retry-after"]) >= 1 for answer in refused)
    await until(is_calm, 20)
    line = await node.line()
    after = [await line.ask("/late/quick") for _ in range(10)]
    assert {answer.status for answer in after} == {200}
    rows = await node.booked([*load.served, *(answer.id for answer in after)])
    assert len(rows) == len(load.served) + 10, "what was refused is not billed"
