"""Breaker: opens when too many calls fail or are slow, refuses for as long as it was told, tries, and closes."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.metrics import Metrics
from gateway.options import FROM_FILE
from gateway.upstream.breaker import TRIAL_SECONDS, WHOLE_UPSTREAM, Breaker, CircuitBreakerOptions

START = 1000.0


def options(**block: Any) -> CircuitBreakerOptions:
    return CircuitBreakerOptions.model_validate(block, context=FROM_FILE)


def breaker(metrics: Metrics | None = None, **block: Any) -> Breaker:
    return Breaker(options(**block), "agents", WHOLE_UPSTREAM, metrics or Metrics(None))


def end(breaker: Breaker, *results: bool, now: float = START, seconds: float = 0.0) -> None:
    for ok in results:
        assert breaker.admit(now) == 0.0
        breaker.record(ok, now, now + seconds)


def opened(**block: Any) -> Breaker:
    made = breaker(minimum_requests=1, **block)
    end(made, False)
    assert made.state == "open"
    return made


def test_half_of_the_calls_and_sixty_seconds_mean_what_they_say() -> None:
    made = breaker(failure_threshold="50%", minimum_requests=20, window="30s", recovery_timeout="60s")
    end(made, *[True] * 10, *[False] * 9)
    assert made.state == "closed"
    end(made, False)
    assert made.state == "open"
    assert made.admit(START) == 60.0
    assert made.admit(START + 59.5) == 0.5
    assert made.admit(START + 60.0) == 0.0
    assert made.state == "half-open"


def test_three_of_thirty_are_ten_percent() -> None:
    """And not a hair more, as 0.1 * 30 would have it."""
    made = breaker(failure_threshold="10%", minimum_requests=30)
    end(made, *[True] * 27, False, False)
    assert made.state == "closed"
    end(made, False)
    assert made.state == "open"


def test_few_calls_mean_nothing() -> None:
    made = breaker(minimum_requests=20)
    end(made, *[False] * 19)
    assert made.state == "closed"


def test_a_success_never_opens_the_circuit() -> None:
    made = breaker(minimum_requests=20)
    end(made, *[False] * 19, True)
    assert made.state == "closed"
    end(made, False)
    assert made.state == "open"


def test_what_the_window_no_longer_holds_does_not_count() -> None:
    made = breaker(minimum_requests=20, window="30s")
    end(made, *[False] * 19)
    end(made, False, now=START + 40.0)
    assert made.state == "closed"


def test_slow_calls_open_the_circuit() -> None:
    made = breaker(minimum_requests=5, slow_call={"duration": "2s", "threshold": "80%"})
    end(made, True)
    end(made, True, True, True, seconds=2.0)
    assert made.state == "closed"
    end(made, True, seconds=2.0)
    assert made.state == "open"


def test_slowness_is_no_matter_unless_it_is_said() -> None:
    made = breaker(minimum_requests=1)
    end(made, *[True] * 10, seconds=1000.0)
    assert made.state == "closed"


def test_as_many_successes_as_trials_close_the_circuit() -> None:
    made = opened(recovery_timeout="10s", half_open_requests=3)
    now = START + 10.0
    assert [made.admit(now) for _ in range(4)] == [0.0, 0.0, 0.0, TRIAL_SECONDS]
    made.record(True, now, now + 1.0)
    made.record(True, now, now + 1.0)
    assert made.admit(now + 1.0) == TRIAL_SECONDS  # two have succeeded, one is under way
    made.record(True, now, now + 2.0)
    assert made.state == "closed"
    assert [made.admit(now + 2.0) for _ in range(10)] == [0.0] * 10


def test_one_failed_trial_opens_the_circuit_for_as_long_again() -> None:
    made = opened(recovery_timeout="10s", half_open_requests=3)
    now = START + 10.0
    assert [made.admit(now), made.admit(now)] == [0.0, 0.0]
    made.record(True, now, now + 1.0)
    made.record(False, now, now + 2.0)
    assert made.admit(now + 3.0) == 9.0


def test_a_slow_trial_is_a_failed_one() -> None:
    made = opened(recovery_timeout="10s", slow_call={"duration": "2s"})
    end(made, True, now=START + 10.0, seconds=2.0)
    assert made.state == "open"


def test_a_cancelled_trial_gives_its_place_back() -> None:
    made = opened(recovery_timeout="10s", half_open_requests=1)
    now = START + 10.0
    assert made.admit(now) == 0.0
    assert made.admit(now) == TRIAL_SECONDS
    made.abandon(now)
    assert made.admit(now) == 0.0


def test_what_older_calls_find_out_is_no_longer_news() -> None:
    """Calls that were under way when the circuit opened end while it is half open: they are no trials."""
    made = breaker(minimum_requests=1, recovery_timeout="10s", half_open_requests=1)
    assert [made.admit(START) for _ in range(4)] == [0.0] * 4
    made.record(False, START, START + 1.0)
    assert made.state == "open"
    made.record(False, START, START + 2.0)
    now = START + 11.0
    assert made.admit(now) == 0.0
    made.record(False, START, now + 1.0)
    made.abandon(START)
    assert made.state == "half-open"
    assert made.admit(now + 1.0) == TRIAL_SECONDS
    made.record(True, now, now + 1.0)
    assert made.state == "closed"


def test_a_circuit_that_closed_begins_anew() -> None:
    made = breaker(minimum_requests=2, recovery_timeout="1s", half_open_requests=1)
    end(made, False, False)
    end(made, True, now=START + 1.0)
    assert made.state == "closed"
    end(made, False, now=START + 1.0)
    assert made.state == "closed"  # the two failures of before are forgotten


def test_changes_and_refusals_are_counted_and_each_change_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics(None)
    made = breaker(metrics, minimum_requests=2, recovery_timeout="1s", half_open_requests=1)
    labels = ("upstream", "target", "route")
    gauge = metrics.gauge("tallygate_breaker_state", "The circuit: 0 closed, 1 half-open, 2 open.", labels)
    caplog.set_level(logging.INFO)
    end(made, False, False)
    assert gauge.labels("agents", "all", "").value == 2.0
    made.admit(START)
    made.admit(START + 0.5)
    assert made.admit(START + 1.0) == 0.0
    assert gauge.labels("agents", "all", "").value == 1.0
    made.record(True, START + 1.0, START + 1.0)
    assert gauge.labels("agents", "all", "").value == 0.0
    assert [record.getMessage() for record in caplog.records] == [
        "upstream agents, target all: the circuit is open: of the last 2 calls 2 failed and 0 were slow",
        "upstream agents, target all: the circuit is half-open: the recovery timeout has passed",
        "upstream agents, target all: the circuit is closed: all trials succeeded",
    ]
    assert made._refusals.value == 2
    assert {state: counter.value for state, counter in made._transitions.items()} == {
        "closed": 1,
        "half-open": 1,
        "open": 1,
    }


def test_what_counts_as_a_failure() -> None:
    made = breaker()
    assert {"connect", "timeout", "lost", "malformed", 502, 503, 504} == made.failures
    assert 500 in breaker(on=["5xx"]).failures
    assert 404 not in breaker(on=["5xx"]).failures


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"failure_threshold": "0%"}, "greater than 0"),
        ({"failure_threshold": 50}, "not a rate: 50"),
        ({"recovery_timeout": "0s"}, "greater than 0"),
        ({"window": "0s"}, "greater than 0"),
        ({"minimum_requests": 0}, "greater than or equal to 1"),
        ({"half_open_requests": 0}, "greater than or equal to 1"),
        ({"slow_call": {}}, "duration"),
        ({"slow_call": {"duration": "0s"}}, "greater than 0"),
        ({"on": []}, "at least 1 item"),
        ({"on": [404]}, "not a failure: 404"),
        ({"fail_max": 5}, "Extra inputs"),
    ],
)
def test_what_cannot_be(block: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        options(**block)
