"""Somebody else decides: a real server is asked, its answers are remembered, and its failures have a policy."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from gateway.exchange import Request, Response
from gateway.upstream.call import response_of
from plugins.authorize import Authorize
from plugins.authorize.external import LONGEST_REMEMBERED
from tests.fixtures.callers import Known, caller
from tests.fixtures.conversation import eventually, serving
from tests.fixtures.wire import Target
from tests.play import Played, Stage, ask


def reply(document: str, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(document)}\r\n\r\n{document}".encode()


YES, NO = reply('{"result": true}'), reply('{"result": false}')


class Asking:
    """A plugin whose policy service is a target, and what became of its questions."""

    def __init__(self, stage: Stage, target: Target, plugin: Any) -> None:
        self.stage, self.target, self.plugin = stage, target, plugin

    async def play(self, *permissions: str, request: Request | None = None, **facts: Any) -> Played:
        return await self.stage.play(Known(caller(*permissions, **facts)), self.plugin, request=request or ask())

    async def status(self, *permissions: str, **facts: Any) -> int:
        return (await self.play(*permissions, **facts)).response.status

    @property
    def questions(self) -> list[dict[str, Any]]:
        """The `input` of each question that was heard."""
        heads = [piece.partition(b"\r\n\r\n")[2] for piece in self.target.text.split(b"POST ")[1:]]
        return [json.loads(head)["input"] for head in heads]

    def count(self, result: str) -> float:
        family = self.stage.metrics.counter(
            "tallygate_authorize_external_total", "Decisions made elsewhere, by what came of asking.", ("result",)
        )
        return family.labels(result).value


def held(stage: Stage) -> float:
    """Answers that are remembered."""
    return stage.metrics.gauge("tallygate_authorize_answers", "Answers of policy services that are remembered.").value


@asynccontextmanager
async def asking(
    stage: Stage, *answers: Any, permission: str | None = "books:{action}", **external: Any
) -> AsyncIterator[Asking]:
    target = Target(list(answers))
    async with serving(target) as edge:

        def forward(request: Request, _upstream: str) -> Awaitable[Response]:
            return response_of(lambda caller: edge.upstream.call(request, caller))

        stage.services = replace(stage.services, forward=forward)
        options: dict[str, Any] = {"upstream": "opa", **external}
        own = {"permission": permission} if permission else {}
        yield Asking(stage, target, stage.make(Authorize, external=options, **own))
        await stage.services.background.stop()


@pytest.mark.parametrize(
    ("document", "status"),
    [
        ('{"result": true}', 200),
        ('{"result": {"allow": true}}', 200),
        ('{"result": {"allow": true, "reason": "r", "more": [1]}, "decision_id": "x"}', 200),
        ('{"result": false}', 403),
        ('{"result": {"allow": false, "reason": "closed"}}', 403),
        ('{"result": {}}', 403),
        ("{}", 403),  # OPA's answer where no rule says anything
        ('{"result": "true"}', 503),
        ('{"result": null}', 503),
        ('{"result": [true]}', 503),
        ('{"Result": true}', 403),
        ('{"result": {"Allow": true}}', 403),
        ('{"result": {"allow": true, "reason": 7}}', 503),
        ('{"result": true} {"result": true}', 503),
        ('{"result": ' + "[" * 5000, 503),
        ('[{"result": true}]', 503),
        ('{"result": 1}', 503),
        ('{"result": {"allow": "yes"}}', 503),
        ("true", 503),
        ("", 503),
        ("\xff", 503),
        ('{"result": true' + " " * 70_000 + "}", 503),
    ],
)
async def test_what_an_answer_means(stage: Stage, document: str, status: int) -> None:
    async with asking(stage, reply(document)) as asked:
        assert await asked.status() == status


@pytest.mark.parametrize(
    "answer",
    [
        reply("", "302 Found\r\nLocation: /v1/data/other"),
        reply('{"result": true}', "201 Created"),
        reply('{"result": true}', "403 Forbidden"),
        reply('{"result": true}', "500 Oops"),
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b'HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{"result": true}',
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n",
    ],
    ids=["302", "201", "403", "500", "204", "cut", "endless"],
)
async def test_only_a_whole_answer_of_success_counts_and_none_is_remembered(stage: Stage, answer: bytes) -> None:
    async with asking(stage, answer, timeout="200ms") as asked:
        assert await asked.status("*") == 503
        assert await eventually(lambda: asked.count("failed") == 1)
        asked.target.answers = [YES]
        assert await asked.status("*") == 200
    assert len(asked.questions) == 2
    assert b"/v1/data/other" not in asked.target.text, "a redirect is not followed"


async def test_no_fact_of_one_caller_reads_as_those_of_another(stage: Stage) -> None:
    callers = [
        {"user": 'root","x":"'},
        {"user": "root"},
        {"user": "a", "roles": frozenset({"b", "c"})},
        {"user": "a", "roles": frozenset({'b","c'})},
        {"user": "a", "roles": frozenset({"b"}), "scopes": frozenset({"c"})},
        {"user": "a", "attributes": {"roles": "b"}},
    ]
    async with asking(stage, YES, facts=["user", "roles", "scopes", "attributes"]) as asked:
        for facts in callers:
            assert await asked.status(**facts) == 200
    assert len(asked.questions) == len(callers)
    assert asked.count("remembered") == 0


async def test_what_is_asked(stage: Stage) -> None:
    facts = ["consumer", "organization", "user", "key", "roles", "scopes", "attributes", "permission", "method"]
    more = ["path", "host", "client", "route", "parameters"]
    async with asking(stage, YES, facts=facts + more, path="/v1/data/x", headers={"api-key": "k"}) as asked:
        ann = {"roles": frozenset({"b", "a"}), "scopes": frozenset({"s"}), "attributes": {"team": "t"}, "key": "k1"}
        request = ask("/a/%2e%2e/books?q=1", "DELETE")
        request.host, request.client = "API.example.com:80", "10.0.0.1"
        assert (await asked.play(request=request, **ann)).response.status == 200
    assert asked.questions == [
        {
            "consumer": "ann",
            "organization": "acme",
            "user": "u-7",
            "key": "k1",
            "roles": ["a", "b"],
            "scopes": ["s"],
            "attributes": {"team": "t"},
            "permission": "books:delete",
            "method": "DELETE",
            "path": "/books",
            "host": "api.example.com",
            "client": "10.0.0.1",
            "route": "r",
            "parameters": {},
        }
    ]
    assert asked.target.text.startswith(b"POST /v1/data/x HTTP/1.1\r\n")
    assert b"\r\napi-key: k\r\n" in asked.target.text


async def test_what_is_not_known_is_left_out_and_what_is_empty_is_not(stage: Stage) -> None:
    facts = ["consumer", "user", "key", "permission", "client", "host", "path", "roles", "attributes", "parameters"]
    async with asking(stage, YES, facts=facts, permission=None) as asked:
        assert (await asked.play(request=ask("/a/../../b"), user="", key="")).response.status == 200
    assert asked.questions == [{"consumer": "ann", "roles": [], "attributes": {}, "parameters": {}}]


async def test_a_question_of_our_own_was_forwarded_by_nobody(stage: Stage) -> None:
    async with asking(stage, YES) as asked:
        assert await asked.status() == 200
    head = asked.target.text.partition(b"\r\n\r\n")[0].lower()
    names = {line.partition(b":")[0] for line in head.split(b"\r\n")[1:]}
    assert names == {b"host", b"content-type", b"content-length"}


async def test_an_answer_holds_for_its_facts_and_for_its_time(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(stage.clock, "monotonic", lambda: now[0])
    async with asking(stage, YES, NO, YES, NO, ttl="5s") as asked:
        assert [await asked.status(), await asked.status()] == [200, 200]
        assert await asked.status(user="u-8") == 403
        assert await asked.status(user="u-8") == 403
        now[0] += 5.1
        assert await asked.status(user="u-8") == 200
        assert held(stage) == 2
        assert await asked.status() == 403
    assert len(asked.questions) == 4
    assert [asked.count(result) for result in ("allowed", "denied", "remembered")] == [2, 2, 2]


async def test_without_a_ttl_each_request_asks(stage: Stage) -> None:
    async with asking(stage, YES, NO, ttl="0s") as asked:
        assert [await asked.status(), await asked.status()] == [200, 403]


async def test_the_oldest_answer_makes_room(stage: Stage) -> None:
    async with asking(stage, YES, max_answers=2) as asked:
        for user in ("1", "2", "3", "2", "3", "1"):
            assert await asked.status(user=user) == 200
        assert held(stage) == 2
        await asked.plugin.stop()
        assert held(stage) == 0
    assert [question["user"] for question in asked.questions] == ["1", "2", "3", "1"]


async def test_a_long_question_is_asked_each_time(stage: Stage) -> None:
    async with asking(stage, YES, NO) as asked:
        request = ask("/" + "x" * LONGEST_REMEMBERED)
        assert [(await asked.play(request=request)).response.status for _ in range(2)] == [200, 403]


async def test_who_asks_the_same_at_once_shares_one_question(stage: Stage) -> None:
    async with asking(stage, YES) as asked:
        assert await asyncio.gather(*[asked.status() for _ in range(50)]) == [200] * 50
    assert len(asked.questions) == 1
    assert asked.count("shared") == 49


async def test_one_who_comes_late_to_a_failing_question_shares_the_failure(stage: Stage) -> None:
    async with asking(stage, b"", timeout="300ms") as asked:
        began = asyncio.get_running_loop().time()
        first = asyncio.ensure_future(asked.status())
        await asyncio.sleep(0.2)
        assert [await asked.status(), await first] == [503, 503]
        assert asyncio.get_running_loop().time() - began < 0.45, "no second question was waited for"
    assert (len(asked.questions), asked.count("failed"), asked.count("shared")) == (1, 1, 1)


async def test_one_who_leaves_does_not_take_the_answer_along(stage: Stage) -> None:
    async with asking(stage, YES) as asked:
        first, second = asyncio.ensure_future(asked.status()), asyncio.ensure_future(asked.status())
        await asyncio.sleep(0)
        first.cancel()
        assert await second == 200
        assert len(asked.questions) == 1


@pytest.mark.parametrize(
    ("policy", "permissions", "status"),
    [
        ("deny", ["*"], 503),
        ("allow", [], 200),
        ("allow", ["!books:*"], 403),
        ("local", ["books:read"], 200),
        ("local", ["books:write"], 403),
    ],
)
@pytest.mark.parametrize("answer", [reply("", "500 Oops"), b"nonsense\r\n\r\n", b""], ids=["500", "nonsense", "none"])
async def test_a_failure_has_its_declared_policy(
    stage: Stage, policy: str, permissions: list[str], status: int, answer: bytes
) -> None:
    async with asking(stage, answer, on_failure=policy, timeout="100ms") as asked:
        started = asyncio.get_running_loop().time()
        assert await asked.status(*permissions) == status
        assert asyncio.get_running_loop().time() - started < 1
        failures = 0 if permissions == ["!books:*"] else 1
        assert await eventually(lambda: asked.count("failed") == failures)


async def test_who_was_let_in_without_an_answer_is_written_down(stage: Stage) -> None:
    async with asking(stage, reply("", "500 Oops"), on_failure="allow") as asked:
        decision = (await asked.play()).exchange.decision
        assert (decision.allowed, decision.because) == (True, "the policy service gave no answer")


async def test_an_undecided_request_may_come_again(stage: Stage) -> None:
    async with asking(stage, b"", timeout="50ms") as asked:
        played = await asked.play("*")
        assert played.response.headers["retry-after"] == "1"
        assert json.loads(played.body)["type"].endswith("/undecided")


async def test_questions_at_once_are_bounded(stage: Stage) -> None:
    async with asking(stage, b"", timeout="100ms", max_questions=2) as asked:
        found = await asyncio.gather(*[asked.status(user=str(number)) for number in range(5)])
        assert found == [503] * 5
        assert await eventually(lambda: asked.count("failed") == 5)
    assert len(asked.questions) <= 2


async def test_what_the_own_permissions_deny_is_not_asked(stage: Stage) -> None:
    async with asking(stage, YES) as asked:
        assert await asked.status("*", "!books:read") == 403
        assert await asked.status() == 200, "that nothing grants it is for the policy service to decide"
    assert len(asked.questions) == 1


async def test_it_may_decide_alone(stage: Stage) -> None:
    async with asking(stage, YES, NO, NO, permission=None, ttl="0s") as asked:
        assert [await asked.status(), await asked.status()] == [200, 403]
        assert "permission" not in asked.questions[0]
        refused = json.loads((await asked.play()).body)
        assert refused["detail"] == "This needs what a policy service allows."


async def test_trouble_is_logged_once_and_so_is_its_end(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        async with asking(stage, reply("", "500 Oops"), reply("", "500 Oops"), YES, ttl="0s") as asked:
            assert [await asked.status() for _ in range(3)] == [503, 503, 200]
    said = [record.getMessage() for record in caplog.records if record.name.startswith("plugins.authorize")]
    assert said == ["no decision from upstream opa: status 500", "decisions of upstream opa are back"]


async def test_the_reason_is_for_the_log(stage: Stage) -> None:
    async with asking(stage, reply('{"result": {"allow": false, "reason": "no rain today"}}')) as asked:
        played = await asked.play()
        assert played.exchange.decision.because == "the policy service says: no rain today"
        assert b"rain" not in played.body
