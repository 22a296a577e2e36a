from __future__ import annotations

import pytest

from gateway.metering.stream import (
    NODES,
    Heartbeat,
    forget_counts,
    may_hold,
    publish_counts,
    read_counts,
    read_nodes,
    segment_name,
    split_name,
    stream_name,
    sweep_counts,
    write_heartbeat,
)
from gateway.stores.redis import Redis, StreamState


def test_names() -> None:
    assert stream_name(7) == "usage.{7}"
    assert segment_name("n1", "b" * 16, 3) == "n1/bbbbbbbbbbbbbbbb/00000003"
    assert split_name("n1/b/3") == ("n1", "b/3")


async def test_counts_are_published_summed_and_forgotten(redis: Redis) -> None:
    await publish_counts(redis, {("n1/b/0", 0): 5, ("n1/b/0", 3): 7, ("n1/b/1", 0): 1, ("n2/b/0", 0): 9})
    asked = [("n1/b/0", [0, 3]), ("n1/b/1", [0, 1]), ("n1/b/2", [2])]
    assert await read_counts(redis, "n1", asked) == [12, 1, 0]
    await publish_counts(redis, {("n1/b/0", 0): 6})
    await forget_counts(redis, "n1", [("n1/b/1", [0])])
    assert await read_counts(redis, "n1", asked) == [13, 0, 0]
    await sweep_counts(redis, "n1", {"b/7"})
    assert await read_counts(redis, "n1", asked) == [0, 0, 0]
    assert await read_counts(redis, "n2", [("n2/b/0", [0])]) == [9]


async def test_heartbeats_are_read_back_and_rubbish_is_left_out(redis: Redis) -> None:
    beat = Heartbeat(None, 5, 0, 0)
    await write_heartbeat(redis, "n1", beat)
    await redis.hash_write(NODES, {"n2": b"rubbish"})
    assert await read_nodes(redis) == {"n1": beat}


@pytest.mark.parametrize(
    ("state", "holds"),
    [
        (StreamState(0, 0, 0, "", ""), False),  # nothing there: what we sent is accounted for, or lost
        (StreamState(3, 3, 0, "0-0", ""), True),  # nobody has read yet
        (StreamState(3, 3, 0, "", ""), True),  # there is no group yet
        (StreamState(3, 2, 1, "9-0", "9-0"), True),  # ours comes later
        (StreamState(3, 2, 1, "10-1", "10-1"), True),  # ours is being worked on
        (StreamState(3, 2, 1, "11-0", "10-2"), False),  # they are past it
        (StreamState(1, 1, 0, "10-1", ""), False),  # given out, acknowledged, and others came after it
    ],
)
def test_what_may_still_hold_an_entry(state: StreamState, holds: bool) -> None:
    assert may_hold(state, "10-1") is holds
