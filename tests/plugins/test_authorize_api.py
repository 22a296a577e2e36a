"""What applications ask: one question or several, by the caller's own permissions, and nothing else gets through."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.body import Body
from gateway.consumers import Consumer
from gateway.exchange import Request
from gateway.headers import Headers
from plugins.authorize_api import AuthorizeApi
from tests.fixtures.callers import Known, caller
from tests.play import Played, Stage

ANN = caller(
    "books:read",
    "notes:edit if resource.owner == user",
    "admin:* if client in '10.0.0.0/8' and method == 'GET'",
    "*:list if 'red' in resource.tags or resource.size < 3",
    "!books:list",
    "!vault:list if client not in '10.0.0.0/8'",
    roles=frozenset({"reader"}),
)


async def asked(stage: Stage, document: Any, consumer: Consumer | None = ANN, **options: Any) -> Played:
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    body = Body(length=len(content))
    body.feed(content)
    body.finish()
    request = Request("POST", "/v1/authorize", Headers(), body)
    request.client = "10.0.0.1"
    return await stage.play(Known(consumer), stage.make(AuthorizeApi, **options), request=request)


@pytest.mark.parametrize(
    ("question", "allowed", "because"),
    [
        ({"permission": "books:read"}, True, "books:read grants it"),
        ({"permission": "books:delete"}, False, "nothing grants it"),
        ({"permission": "books:list", "resource": {"size": 1}}, False, "!books:list denies it"),
        ({"permission": "notes:edit", "resource": {"owner": "u-7"}}, True, None),
        ({"permission": "notes:edit", "resource": {"owner": "u-8"}}, False, None),
        ({"permission": "notes:edit"}, False, "no condition of what grants it holds"),
        ({"permission": "cars:list", "resource": {"tags": ["red"]}}, True, None),
        ({"permission": "cars:list", "resource": {"tags": ["blue"], "size": 2.5}}, True, None),
        ({"permission": "cars:list", "resource": {"tags": "red"}}, False, None),
        # Of the request that the application serves nothing is known but what it says.
        ({"permission": "admin:stop"}, False, None),
        ({"permission": "admin:stop", "request": {"client": "10.1.1.1", "method": "GET"}}, True, None),
        ({"permission": "admin:stop", "request": {"client": "10.1.1.1", "method": "POST"}}, False, None),
        ({"permission": "vault:list", "resource": {"size": 1}}, False, None),
        ({"permission": "vault:list", "resource": {"size": 1}, "request": {"client": "10.1.1.1"}}, True, None),
        ({"permission": "*"}, False, "it is not a permission"),
        ({"permission": "books:*"}, False, "it is not a permission"),
    ],
)
async def test_a_question(stage: Stage, question: dict[str, Any], allowed: bool, because: str | None) -> None:
    played = await asked(stage, question)
    assert played.response.status == 200
    assert played.seen_upstream is None
    assert played.response.headers["cache-control"] == "no-store"
    answer = json.loads(played.body)
    assert (answer["permission"], answer["allowed"]) == (question["permission"], allowed)
    assert because is None or answer["because"] == because


async def test_several_questions_are_answered_in_order(stage: Stage) -> None:
    questions = [{"permission": name} for name in ("books:read", "books:delete", "books:read")]
    played = await asked(stage, {"questions": questions})
    answers = json.loads(played.body)["answers"]
    assert [answer["allowed"] for answer in answers] == [True, False, True]
    assert json.loads((await asked(stage, {"questions": []})).body) == {"answers": []}


@pytest.mark.parametrize(
    "document",
    [
        *(b"", b"nonsense", b'{"permission": "books:read"', b'"', b"{" * 5000, b'{"resource": ' + b"[" * 5000),
        *(b'{"permission": "\\ud800"}', b'{"permission": "\xff"}'),
    ],
)
async def test_what_is_not_json_is_refused(stage: Stage, document: Any) -> None:
    played = await asked(stage, document)
    assert played.response.status == 400
    assert json.loads(played.body)["type"].endswith("/malformed-body")


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        {"permission": 7},
        {"permission": None},
        {"permission": "books:read", "consumer": "root"},
        {"permission": "books:read", "roles": ["admin"]},
        {"permission": "books:read", "resource": {"a": {"b": "c"}}},
        {"permission": "books:read", "resource": {"a": True}},
        {"permission": "books:read", "request": {"consumer": "root"}},
        {"permission": "books:read", "request": {"client": "somewhere"}},
        {"permission": "books:read", "questions": []},
        {"questions": [{"permission": "books:read"}, {}]},
        {"questions": {"permission": "books:read"}},
        {"questions": [{"permission": "books:read"}] * 4},
    ],
)
async def test_what_is_no_question_is_refused(stage: Stage, document: Any) -> None:
    played = await asked(stage, document, max_questions=3)
    assert played.response.status == 422
    assert json.loads(played.body)["type"].endswith("/invalid-values")


async def test_hundreds_of_conditions_hold_nobody_up(stage: Stage) -> None:
    ann = caller(*(f"*:* if resource.r{number} == 'x' and resource.y == 'z'" for number in range(500)))
    late: list[float] = []
    stage.services.background.measure_lag(late.append, 0.001)
    played = await asked(stage, {"questions": [{"permission": f"a/{number}:b"} for number in range(100)]}, ann)
    assert [answer["allowed"] for answer in json.loads(played.body)["answers"]] == [False] * 100
    await stage.services.background.stop()
    assert len(late) >= 20, "the loop had turns meanwhile"


async def test_who_is_not_known_gets_no_answer(stage: Stage) -> None:
    assert (await asked(stage, {"permission": "books:read"}, consumer=None)).response.status == 401


async def test_other_methods_and_large_bodies_are_refused(stage: Stage) -> None:
    played = await stage.play(Known(ANN), stage.make(AuthorizeApi))
    assert (played.response.status, played.response.headers["allow"]) == (405, "POST")
    large = {"permission": "books:read", "resource": {"x": "y" * 2000}}
    assert (await asked(stage, large, max_body="1KiB")).response.status == 413


async def test_answers_are_counted(stage: Stage) -> None:
    await asked(stage, {"questions": [{"permission": "books:read"}, {"permission": "a:b"}, {"permission": "a:b"}]})
    answers = stage.metrics.counter(
        "tallygate_authorize_questions_total", "Questions of applications, by the answer.", ("answer",)
    )
    assert (answers.labels("allowed").value, answers.labels("denied").value) == (1, 2)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["permission", "resource", "request", "questions", "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(document=JSON | st.binary(max_size=30))
async def test_whatever_is_asked_has_an_answer_or_a_refusal(stage: Stage, document: Any) -> None:
    assert (await asked(stage, document)).response.status in (200, 400, 422)
