"""Retry: repeats what may be repeated, at a random moment within bounds, and as often as the budget pays for it."""

from __future__ import annotations

from math import inf
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.body import BodyTooLarge
from gateway.exchange import Response
from gateway.headers import Headers
from gateway.http1.grammar import IDEMPOTENT
from gateway.metrics import Metrics
from gateway.options import FROM_FILE
from gateway.upstream.connection import Lost, TimedOut
from gateway.upstream.retry import Retry, RetryOptions, asked_pause

NOW = 1000.0
REFUSED = ConnectionRefusedError()


def options(**block: Any) -> RetryOptions:
    return RetryOptions.model_validate(block, context=FROM_FILE)


def retry(seed: int = 0, **block: Any) -> Retry:
    return Retry(options(**block), "agents", Metrics(None), Random(seed))


def pause(made: Retry, result: Exception | Response, attempt: int = 1, **situation: Any) -> float | None:
    usual = {"method": "GET", "replayable": True, "forwarded": False, "now": NOW, "deadline": NOW + 300.0}
    return made.pause(result, attempt, **{**usual, **situation})


def answer(status: int = 503, **fields: str) -> Response:
    return Response(status, {name.replace("_", "-"): value for name, value in fields.items()})


def test_what_config_md_writes_is_understood() -> None:
    block = {"attempts": 3, "backoff": "exponential", "base": "50ms", "on": ["connect", 502, 503, 504], "budget": "20%"}
    made = options(**block)
    assert (made.attempts, made.base, made.budget) == (3, 0.05, 0.2)


def test_methods_are_the_idempotent_ones() -> None:
    assert set(options().methods) == IDEMPOTENT


@pytest.mark.parametrize("result", [REFUSED, TimeoutError(), Lost("gone"), answer(502), answer(503), answer(504)])
def test_what_is_repeated(result: Exception | Response) -> None:
    assert pause(retry(), result) is not None


@pytest.mark.parametrize(
    "result",
    [answer(200), answer(404), answer(429), answer(500), answer(501), TimedOut(), BodyTooLarge(), ValueError()],
)
def test_what_is_not_repeated_unless_it_is_said(result: Exception | Response) -> None:
    assert pause(retry(), result) is None


def test_what_is_repeated_if_it_is_said() -> None:
    made = retry(on=["timeout", 500])
    assert pause(made, TimedOut()) is not None
    assert pause(made, answer(500)) is not None
    assert pause(made, REFUSED) is None


@pytest.mark.parametrize("situation", [{"replayable": False}, {"forwarded": True}, {"deadline": NOW}, {"attempt": 3}])
def test_what_is_never_repeated(situation: dict[str, Any]) -> None:
    made = retry(budget_minimum=1.0)
    assert pause(made, REFUSED, **situation) is None
    assert pause(made, REFUSED) is not None  # nothing was taken from the budget for it


def test_a_request_that_may_have_arrived_is_sent_again_only_with_some_methods() -> None:
    """RFC 9110 §9.2.2: unless the original request was certainly never applied."""
    made = retry()
    assert pause(made, Lost("gone"), method="POST") is None
    assert pause(made, answer(503), method="POST") is None
    assert pause(made, REFUSED, method="POST") is not None
    assert pause(retry(methods=["POST"]), answer(503), method="POST") is not None
    assert pause(retry(methods=["POST"]), answer(503), method="GET") is None


pauses = {"base": st.floats(0.001, 1.0), "longest": st.floats(1.0, 60.0), "attempt": st.integers(1, 9)}


@given(**pauses, seed=st.integers())
def test_a_pause_is_anything_up_to_a_bound_that_doubles(base: float, longest: float, attempt: int, seed: int) -> None:
    made = Retry(RetryOptions(base=base, max=longest, attempts=10), "agents", Metrics(None), Random(seed))
    bound = min(longest, base * 2.0 ** (attempt - 1))
    assert made.longest_pause(attempt) == pytest.approx(bound)
    assert 0.0 <= (pause(made, REFUSED, attempt) or 0.0) <= bound * 1.000001


@given(**pauses)
def test_a_constant_bound_does_not_grow(base: float, longest: float, attempt: int) -> None:
    made = RetryOptions(base=base, max=longest, attempts=10, backoff="constant")
    assert Retry(made, "agents", Metrics(None), Random(0)).longest_pause(attempt) == base


def test_pauses_are_spread_over_the_whole_range() -> None:
    made = retry(base="1s", max="1s", budget_minimum=1e6)
    drawn = [pause(made, REFUSED) or 0.0 for _ in range(1000)]
    tenths = [sum(int(each * 10) == tenth for each in drawn) for tenth in range(10)]
    assert all(60 < count < 140 for count in tenths), tenths


def test_a_pause_that_ends_after_the_deadline_is_not_begun() -> None:
    made = retry(base="1s", max="1s", budget_minimum=1e6)
    for _ in range(100):
        waiting = pause(made, REFUSED, deadline=NOW + 0.5)
        assert waiting is None or waiting < 0.5


def test_a_target_s_wish_is_added_up_to_a_bound() -> None:
    made = retry(max_retry_after="5s", base="100ms")
    assert 5.0 <= (pause(made, answer(retry_after="5")) or 0.0) <= 5.1
    assert pause(made, answer(retry_after="6")) is None


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({}, 0.0),
        ({"retry_after": "0"}, 0.0),
        ({"retry_after": "120"}, 120.0),
        ({"retry_after": "9" * 400}, inf),
        ({"retry_after": "-1"}, 0.0),
        ({"retry_after": "soon"}, 0.0),
        ({"retry_after": "1.5"}, 0.0),
        ({"retry_after": "²"}, 0.0),
        ({"retry_after": f"Sun, 06 Nov {'9' * 20} 08:49:37 GMT"}, 0.0),
        ({"retry_after": "Sun, 06 Nov 1994 08:49:37 GMT"}, inf),
        ({"retry_after": "Sun, 06 Nov 1994 08:49:37 GMT", "date": "Sun, 06 Nov 1994 08:49:07 GMT"}, 30.0),
        ({"retry_after": "Sun, 06 Nov 1994 08:49:37 GMT", "date": "Sun, 06 Nov 1994 08:50:00 GMT"}, 0.0),
        ({"retry_after": "Sunday, 06-Nov-94 08:49:37 GMT", "date": "Sun Nov  6 08:49:07 1994"}, 30.0),
    ],
)
def test_retry_after(fields: dict[str, str], seconds: float) -> None:
    assert asked_pause(answer(**fields).headers) == seconds


words = st.lists(
    st.sampled_from(
        ["Sun,", "06", "Nov", "1994", "0", "99999", "9" * 30, "08:49:37", "24:00:60", "GMT", "-0000", "+9999", "-", ","]
    )
).map(" ".join) | st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]))


@given(words, words)
def test_whatever_retry_after_says_is_a_pause(value: str, date: str) -> None:
    assert asked_pause(Headers({"retry-after": value, "date": date})) >= 0.0


def test_the_budget_ends_retries_and_calls_fill_it() -> None:
    made = retry(budget="20%", budget_minimum=0)
    assert pause(made, REFUSED) is None
    for _ in range(10):
        made.begin(NOW)
    assert [pause(made, REFUSED) is not None for _ in range(4)] == [True, True, False, False]
    assert made._made.labels("agents", "connect").value == 2
    assert made._unpaid.labels("agents", "connect").value == 3


def test_a_retry_is_counted_by_its_reason() -> None:
    made = retry()
    for result in (answer(503), answer(503), Lost("gone")):
        pause(made, result)
    assert [made._made.labels("agents", reason).value for reason in ("503", "lost", "connect")] == [2, 1, 0]


def test_an_attempt_has_a_deadline_of_its_own_within_the_call_s() -> None:
    assert retry().deadline(NOW, NOW + 300.0) == NOW + 300.0
    made = retry(per_try_timeout="2s")
    assert made.deadline(NOW, NOW + 300.0) == NOW + 2.0
    assert made.deadline(NOW, NOW + 1.0) == NOW + 1.0


def test_a_slow_call_is_hedged_as_often_as_it_is_said_and_paid_for() -> None:
    made = retry(hedge={"after": "300ms", "max": 2}, budget_minimum=0.3)
    assert made.hedge_after == 0.3
    assert made.hedge(0, method="GET", has_body=False, now=NOW)
    assert made.hedge(1, method="GET", has_body=False, now=NOW)
    assert not made.hedge(2, method="GET", has_body=False, now=NOW)
    assert pause(made, REFUSED) is not None
    assert not made.hedge(0, method="GET", has_body=False, now=NOW)  # hedges and retries have one budget
    assert made._made.labels("agents", "slow").value == 2
    assert made._unpaid.labels("agents", "slow").value == 1


def test_what_is_never_hedged() -> None:
    made = retry(hedge={"after": "300ms"}, methods=["POST", "PUT"])
    assert not made.hedge(0, method="POST", has_body=False, now=NOW)  # sent twice on purpose: idempotent ones only
    assert not made.hedge(0, method="GET", has_body=False, now=NOW)
    assert not made.hedge(0, method="PUT", has_body=True, now=NOW)
    assert made.hedge(0, method="PUT", has_body=False, now=NOW)
    assert retry().hedge_after is None
    assert not retry().hedge(0, method="GET", has_body=False, now=NOW)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"attempts": 0}, "greater than or equal to 1"),
        ({"attempts": 11}, "less than or equal to 10"),
        ({"backoff": "linear"}, "'exponential' or 'constant'"),
        ({"base": "2s", "max": "1s"}, "write at least the length of `base`"),
        ({"per_try_timeout": "0s"}, "greater than 0"),
        ({"on": []}, "at least 1 item"),
        ({"on": ["refused"]}, "not a failure"),
        ({"methods": ["get"]}, "'GET'"),
        ({"budget": "120%"}, "less than or equal to 1"),
        ({"budget_minimum": -1}, "greater than or equal to 0"),
        ({"hedge": {}}, "after"),
        ({"hedge": {"after": "0s"}}, "greater than 0"),
    ],
)
def test_what_cannot_be(block: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        options(**block)
