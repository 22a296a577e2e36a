from __future__ import annotations

from collections import OrderedDict
from time import perf_counter

from hypothesis import given
from hypothesis import strategies as st

from gateway.expiring import Expiring
from gateway.metrics import Gauge, GaugePart, Metrics


class Hands:
    """A clock that is turned by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def made(most: int) -> tuple[Expiring[int], Hands, Gauge]:
    hands = Hands()
    size = Metrics(None).gauge("held", "How many.")
    return Expiring(most, hands, GaugePart(size)), hands, size


def test_a_value_ends_with_its_time():
    held, hands, size = made(9)
    held.put("a", 1, 10)
    hands.now = 9.9
    assert held.get("a") == 1
    hands.now = 10.0
    assert held.get("a") is None
    assert (len(held), size.value) == (0, 0)


def test_what_goes_first_is_what_was_asked_for_longest_ago():
    held, _, size = made(2)
    held.put("a", 1, 10)
    held.put("b", 2, 10)
    assert held.get("a") == 1
    held.put("c", 3, 10)
    assert [held.get(key) for key in "abc"] == [1, None, 3]
    assert size.value == 2


def test_it_is_given_up_with_the_last_that_uses_it():
    held, _, size = made(2)
    held.retain()
    held.retain()
    held.put("a", 1, 10)
    held.release()
    assert held.get("a") == 1
    held.release()
    assert (held.get("a"), size.value) == (None, 0)


STEPS = st.lists(st.tuples(st.sampled_from(["put", "get", "drop", "tick"]), st.sampled_from("abcd"), st.integers(1, 9)))


@given(STEPS)
def test_like_a_plain_model_of_it(steps):
    held, hands, size = made(3)
    model: OrderedDict[str, tuple[float, int]] = OrderedDict()
    for step, key, number in steps:
        match step:
            case "put":
                model.pop(key, None)
                if len(model) == 3:
                    model.popitem(last=False)
                model[key] = hands.now + number, number
                held.put(key, number, number)
            case "get":
                end, value = model.pop(key, (0.0, None))
                if end > hands.now:
                    model[key] = end, value
                assert held.get(key) == (value if end > hands.now else None)
            case "drop":
                model.pop(key, None)
                held.drop(key)
            case "tick":
                hands.now += number
        assert len(held) == len(model) == size.value <= 3


def test_making_room_costs_no_more_the_more_is_held():
    """What a plain dict does not give: its first key is behind all that were deleted before it."""

    def cost(most: int) -> float:
        held, _, _ = made(most)
        keys = [str(number) for number in range(60_000)]
        began = perf_counter()
        for key in keys:
            held.put(key, 0, 10)
        return perf_counter() - began

    assert cost(30_000) < 5 * min(cost(30) for _ in range(3))
