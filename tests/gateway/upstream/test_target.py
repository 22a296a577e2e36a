"""Targets: what they are called, and what of them outlives a reload."""

from __future__ import annotations

import gc

import pytest
from pydantic import ValidationError

from gateway.upstream.target import Target, TargetOptions, TargetStates, check_targets


def target(url: str, address: str | None = None) -> Target:
    return Target(TargetOptions(url=url), address=address)


@pytest.mark.parametrize(
    ("url", "name", "address"),
    [
        ("http://API.internal", "http://api.internal:80", "api.internal:80"),
        ("http://api.internal:80/", "http://api.internal:80", "api.internal:80"),
        ("http://[::1]:9001", "http://[::1]:9001", "[::1]:9001"),
    ],
)
def test_a_target_is_named_after_its_url(url: str, name: str, address: str):
    assert (target(url).name, target(url).address) == (name, address)


def test_an_address_of_a_name_is_connected_to_and_the_name_is_said():
    found = target("http://api.internal:9001", "10.0.0.7")
    assert (found.host, found.address, found.authority) == ("10.0.0.7", "10.0.0.7:9001", "api.internal:9001")
    assert found.name == "http://api.internal:9001 (10.0.0.7)"
    assert target("http://api.internal:9001", "fe80::1").address == "[fe80::1]:9001"


def test_the_same_target_goes_on_with_its_state():
    states = TargetStates()
    old, new, other = (target("http://a:1") for _ in range(3))
    for upstream, each in (("u", old), ("u", new), ("v", other)):
        states.continue_with(upstream, each)
    old.state.in_flight += 1
    assert new.state is old.state
    assert other.state is not old.state


def test_a_state_goes_with_its_last_target():
    states = TargetStates()
    old, new = target("http://a:1"), target("http://a:1")
    for each in (old, new):
        states.continue_with("u", each)
    del old, each
    gc.collect()
    assert len(states) == 1
    del new
    gc.collect()
    assert len(states) == 0


@pytest.mark.parametrize("weight", [-1, 1001, 1.5, True])
def test_impossible_weights_are_refused(weight: object):
    with pytest.raises(ValidationError):
        TargetOptions.model_validate({"url": "http://a", "weight": weight})


def test_lists_that_cannot_be_meant_are_refused():
    first, again = TargetOptions(url="http://a"), TargetOptions(url="http://A:80/", weight=2)
    with pytest.raises(ValueError, match="listed twice"):
        check_targets([first, again])
    with pytest.raises(ValueError, match="every target is drained"):
        check_targets([TargetOptions(url="http://a", weight=0)])
    check_targets([first, TargetOptions(url="http://b", weight=0, zone="eu-1")])
