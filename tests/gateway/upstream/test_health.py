"""Health: what is available, when all are used instead, and what an operator is told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.health import Health, HealthOptions
from gateway.upstream.target import Target, TargetOptions
from tests.fixtures.targets import make_targets


def watching(targets: list[Target], **options: Any) -> Health:
    health = Health(HealthOptions.model_validate({"path": "/health", **options}))
    health.use(targets)
    return health


def test_all_are_available_until_something_is_known():
    targets = make_targets(1, 0, 2)
    assert watching(targets).available() == targets
    assert watching(targets, path=None, passive={}).available() == targets


def test_probes_and_calls_take_targets_out_and_bring_them_back():
    one, two, three = targets = make_targets(1, 1, 1)
    health = watching(targets, passive={"failures": 1, "ejection": "10s"}, unhealthy_after=1, healthy_after=1)
    assert health.wants_answers
    assert health.probed(one, "status 503")
    assert health.answered(two, 0.1, False, 0.0)
    assert health.available() == [three]
    assert not health.answered(three, 0.1, True, 1.0)
    assert health.probed(one, "")
    assert health.sweep(10.0)
    assert health.available() == targets


def test_a_probe_that_fails_twice_is_no_change():
    one, _ = targets = make_targets(1, 1)
    health = watching(targets, unhealthy_after=1)
    assert health.probed(one, "status 503")
    assert not health.probed(one, "status 500")
    assert health.reason(one) == "probe: status 500"


@given(
    st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=9),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
)
def test_panic_is_exactly_below_the_threshold(shape: list[tuple[int, bool]], threshold: float):
    targets = make_targets(*(weight for weight, _ in shape))
    health = watching(targets, panic_threshold=threshold)
    for target, (_, well) in zip(targets, shape, strict=True):
        health.probed(target, "" if well else "down")
    well = [target for target, (_, is_well) in zip(targets, shape, strict=True) if is_well]
    to_call, all_to_call = sum(1 for target in well if target.weight), sum(1 for target in targets if target.weight)
    assert health.available() == (targets if health.panics else well)
    assert health.panics == (to_call < threshold * all_to_call)
    if threshold and all_to_call:
        assert any(target.weight for target in health.available()), "somebody can always be called"


def test_without_a_panic_threshold_there_may_be_nobody():
    (target,) = targets = make_targets(1)
    health = watching(targets, panic_threshold="0%")
    health.probed(target, "down")
    assert health.available() == []


def test_calls_alone_never_cause_a_panic_that_was_not_asked_for():
    """What is ejected is bounded before the panic threshold is reached, with the options as they are."""
    targets = make_targets(1, 1, 1, 1, 1)
    health = watching(targets, path=None, passive={"failures": 1})
    for target in targets:
        health.answered(target, 0.1, False, 0.0)
    assert len(health.available()) == 3
    assert not health.panics


def test_a_verdict_of_probes_that_are_no_longer_made_does_not_count():
    (target, _) = targets = make_targets(1, 1)
    watching(targets, unhealthy_after=1).probed(target, "down")
    assert watching(targets, path=None).available() == targets


def test_a_drained_target_comes_back_for_its_clients_too():
    drained, other = make_targets(0, 1), make_targets(1, 1)
    targets = [*drained, *other]
    health = watching(targets, passive={"failures": 1, "ejection": "10s"})
    health.answered(drained[0], 0.1, False, 0.0)
    assert drained[0] not in health.available()
    assert health.sweep(10.0)
    assert health.available() == targets


def test_an_attempt_that_nobody_waited_for_says_nothing():
    targets = make_targets(1, 1)
    health = watching(targets, passive={"failures": 1})
    assert not health.answered(targets[0], 60.0, None, 0.0)
    assert health.available() == targets


def test_an_operator_is_told_why():
    zoned = Target(TargetOptions(url="http://a:1", weight=3, zone="eu-1"))
    drained, bad, worse = make_targets(0, 1, 1)
    health = watching([zoned, drained, bad, worse], passive={"failures": 1})
    health.probed(bad, "no answer within 1 s")
    health.answered(worse, 0.1, False, 0.0)
    assert [health.state(target) for target in (zoned, drained, bad, worse)] == [
        ("unknown", ""),
        ("draining", ""),
        ("unhealthy", "probe: no answer within 1 s"),
        ("ejected", "failures in a row"),
    ]
    health.probed(zoned, "")
    assert health.state(zoned) == ("healthy", "")
    health.answered(bad, 0.1, False, 0.0)
    assert health.state(bad)[0] == "unhealthy", "the probes' word comes first"
    health.probed(drained, "no answer within 1 s")
    assert health.state(drained)[0] == "unhealthy", "clients that it has still go there"


def test_where_nobody_looks_nothing_is_known():
    (target,) = make_targets(1)
    assert watching([target], path=None).state(target) == ("unknown", "")
    assert watching([target], path=None, passive={}).state(target) == ("healthy", "")


def test_without_passive_options_calls_are_not_looked_at():
    targets = make_targets(1)
    health = watching(targets)
    assert not health.wants_answers
    assert not health.answered(targets[0], 0.1, False, 0.0)
    assert not health.sweep(1.0)


@pytest.mark.parametrize("weights", [(), (0, 0)])
def test_nothing_to_call_is_no_panic(weights: tuple[int, ...]):
    health = watching(make_targets(*weights))
    assert len(health.available()) == len(weights)
    assert not health.panics
