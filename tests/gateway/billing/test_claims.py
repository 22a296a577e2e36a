"""Claims: every shard has an owner, nobody has two more than another, and what a dead worker had is shared out."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from gateway.billing.claims import Claims, fair_move
from gateway.metrics import Metrics


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 2**32))
def test_workers_end_up_with_even_shares(shards, workers, seed):
    """From any distribution, acting one after the other in any order."""
    chance = random.Random(seed)
    loads = [0] * workers
    for _ in range(chance.randint(0, shards)):
        loads[chance.randrange(workers)] += 1
    for _ in range(3 * shards + 10):
        order = list(range(workers))
        chance.shuffle(order)
        for worker in order:
            move = fair_move(loads[worker], loads[:worker] + loads[worker + 1 :], shards)
            loads[worker] += move.take - move.give
            assert sum(loads) <= shards
    assert sum(loads) == shards
    assert max(loads) - min(loads) <= 1
    assert all(fair_move(load, loads[:at] + loads[at + 1 :], shards) == (0, 0) for at, load in enumerate(loads))


def test_alone_it_takes_everything():
    assert fair_move(0, [], 16) == (16, 0)


async def test_shards_are_shared_and_inherited(database):
    claims = [Claims(8, Metrics(None)) for _ in range(3)]
    async with database.session() as first:
        await claims[0].join(first)
        await claims[0].renew(first, set())
        assert claims[0].owned == set(range(8))
        async with database.session() as second, database.session() as third:
            for each, session in ((claims[1], second), (claims[2], third)):
                await each.join(session)
            for _ in range(6):
                for each, session in zip(claims, (first, second, third), strict=True):
                    await each.renew(session, set())
            assert sorted(len(each.owned) for each in claims) == [2, 3, 3]
            assert claims[0].owned | claims[1].owned | claims[2].owned == set(range(8))
        await claims[0].renew(first, set())
        assert claims[0].owned == set(range(8))


async def test_a_shard_in_hand_is_not_given_to_another_before_it_is_finished(database):
    one, two = Claims(2, Metrics(None)), Claims(2, Metrics(None))
    async with database.session() as first, database.session() as second:
        await one.join(first)
        await one.renew(first, set())
        await two.join(second)
        await one.renew(first, {0, 1})
        assert len(one.owned) == 1
        await one.renew(first, {0, 1})
        await two.renew(second, set())
        assert two.owned == set()
        await one.renew(first, set())
        await two.renew(second, set())
        assert one.owned | two.owned == {0, 1}
        assert len(two.owned) == 1
