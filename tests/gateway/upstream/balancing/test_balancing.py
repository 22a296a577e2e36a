"""All balancers: what the contract promises, whatever happens; and their options."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from gateway.config.wording import findings
from gateway.options import FROM_FILE, Options
from gateway.upstream.balancing import BalancerOptions, make_balancer
from gateway.upstream.balancing.adaptive import AdaptiveOptions
from gateway.upstream.balancing.balancer import Balancer
from gateway.upstream.balancing.consistent_hash import ConsistentHashOptions
from gateway.upstream.balancing.round_robin import RoundRobinOptions
from gateway.upstream.options import UpstreamOptions
from gateway.upstream.target import Target
from tests.fixtures.targets import make_targets, request_of

KINDS: list[Any] = [
    "round_robin",
    "weighted",
    "least_connections",
    "ip_hash",
    {"name": "consistent_hash", "header": "x-user"},
    {"name": "adaptive", "load_reports": True, "zone": "a", "weight_field": "x-weight"},
]
PARSE = TypeAdapter[Any](BalancerOptions).validate_python
TARGETS = make_targets(1, 2, 0, 5, 1, 0, 3)

every = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind if isinstance(kind, str) else kind["name"])
some = st.lists(st.sampled_from(range(len(TARGETS))), unique=True)
steps = st.lists(
    st.tuples(st.just("use"), some)
    | st.tuples(st.just("pick"), st.tuples(some, st.sampled_from("abcdef")))
    | st.tuples(st.just("end"), st.tuples(st.integers(0, 9), st.floats(0, 10), st.sampled_from([True, False, None])))
    | st.tuples(st.just("report"), st.tuples(st.integers(0, 6), st.floats(0, 2))),
    max_size=60,
)


def fresh(kind: Any) -> Balancer:
    return make_balancer(PARSE(kind), Random(7))


@every
@given(steps=steps)
def test_only_what_is_available_is_picked_and_what_was_tried_only_if_all_was(kind: Any, steps: list[tuple[str, Any]]):
    targets = make_targets(*(target.weight for target in TARGETS))
    balancer = fresh(kind)
    used: Sequence[Target] = ()
    going: list[tuple[Target, int]] = []
    for now, (step, given_to) in enumerate(steps):
        if step == "use":
            used = [targets[place] for place in given_to]
            balancer.use(used, float(now))
        elif step == "pick":
            avoid = [targets[place] for place in given_to[0]]
            request = request_of(f"10.1.0.{ord(given_to[1])}", x_user=given_to[1], x_weight="3")
            picked = balancer.pick(request, float(now), avoid)
            could = [target for target in used if target.weight]
            assert (picked is None) == (not could)
            if picked is not None:
                assert picked in could
                assert picked not in avoid or all(target in avoid for target in could)
                weight = balancer.weigh(request)
                balancer.sent(picked, float(now), weight)
                going.append((picked, weight))
        elif step == "end" and going:
            target, weight = going.pop(given_to[0] % len(going))
            balancer.answered(target, given_to[1], given_to[2], float(now), weight)
        elif step == "report":
            balancer.reported(targets[given_to[0]], f"TEXT cpu_utilization={given_to[1]:.3f}", float(now))
        for target in targets:
            assert target.state.in_flight == sum(weight for each, weight in going if each is target)


@every
def test_every_target_gets_something(kind: Any):
    targets = make_targets(1, 2, 3)
    balancer = fresh(kind)
    balancer.use(targets, 0.0)
    picked = set()
    for number in range(200):
        target = balancer.pick(request_of(f"10.0.{number}.1", x_user=str(number)), 0.0)
        assert target is not None
        balancer.sent(target, 0.0)
        picked.add(target)
    assert picked == set(targets)


@every
def test_each_says_what_it_wants_to_hear(kind: Any):
    balancer = fresh(kind)
    assert balancer.wants_feedback is (kind not in ("round_robin", "weighted"))
    assert balancer.wants_reports is (isinstance(kind, dict) and kind["name"] == "adaptive")
    assert balancer.weigh(request_of()) == 1


class Sample(Options):
    balancer: BalancerOptions = RoundRobinOptions()


@every
def test_a_balancer_is_a_name_or_a_block(kind: Any):
    name = kind if isinstance(kind, str) else kind["name"]
    options = Sample.model_validate({"balancer": kind}, context=FROM_FILE).balancer
    assert options.name == name
    if isinstance(kind, str):
        assert Sample.model_validate({"balancer": {"name": name}}).balancer == options
    assert Sample.model_validate({"balancer": options}).balancer == options


def test_options_of_a_balancer_are_its_own():
    options = Sample.model_validate({"balancer": {"name": "adaptive", "decay": "2s"}}, context=FROM_FILE).balancer
    assert cast("AdaptiveOptions", options).decay == 2.0
    bound = {"name": "consistent_hash", "cookie": "sid", "bound": "150%"}
    assert cast("ConsistentHashOptions", PARSE(bound, context=FROM_FILE)).bound == 1.5


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("adaptiv", "not a balancer: 'adaptiv' (write round_robin, weighted, "),
        ({"decay": "2s"}, "not a balancer: None (write"),
        ({"name": "adaptive", "decai": "2s"}, 'unknown key "decai" (did you mean "decay"?)'),
        ({"name": "adaptive", "decay": 2}, "not a duration: 2"),
        ({"name": "adaptive", "decay": "0s"}, "must be greater than 0s"),
        ({"name": "adaptive", "weight_field": "a b"}, "not the name of a header field"),
        ({"name": "round_robin", "decay": "2s"}, 'unknown key "decay"'),
        ({"name": "ip_hash", "bound": "100%"}, "must be greater than 100%"),
        ({"name": "ip_hash", "bound": 1.25}, "not a rate: 1.25 (write 50%"),
        ({"name": "consistent_hash"}, "exactly one key"),
        (3, "must be"),
    ],
)
def test_what_is_wrong_is_said_in_the_reader_s_words(value: Any, text: str):
    block = {"balancer": value}
    with pytest.raises(ValidationError) as failure:
        Sample.model_validate(block, context=FROM_FILE)
    (found,) = findings(Sample, failure.value, block)
    assert text in found.text
    assert found.steps[:1] == ("balancer",)


@pytest.mark.parametrize("weights", [(1, 1), (3, 3), (1, 0), (5,)])
def test_round_robin_takes_weights_that_make_no_difference_or_drain(weights: tuple[int, ...]):
    assert UpstreamOptions.model_validate({"targets": weighing(*weights)}).balancer.name == "round_robin"


def test_weights_that_nobody_would_heed_are_refused():
    with pytest.raises(ValidationError, match="round_robin does not heed weights"):
        UpstreamOptions.model_validate({"targets": weighing(3, 1)})


@pytest.mark.parametrize("name", ["weighted", "least_connections", "ip_hash", "adaptive"])
def test_all_other_balancers_take_weights(name: str):
    assert UpstreamOptions.model_validate({"targets": weighing(3, 1), "balancer": name})


def weighing(*weights: int) -> list[dict[str, Any]]:
    return [{"url": f"http://10.0.0.{number}", "weight": weight} for number, weight in enumerate(weights, 1)]


def test_editors_are_told_of_both_forms():
    schema = Sample.model_json_schema()
    name, block = schema["properties"]["balancer"]["anyOf"][0], schema["properties"]["balancer"]["anyOf"][1]
    assert "least_connections" in name["enum"]
    assert len(block["oneOf"]) == len(KINDS)
