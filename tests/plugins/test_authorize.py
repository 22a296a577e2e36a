"""Who may do what: each kind of requirement, what a refusal says, and what is written down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.consumers import Consumer
from gateway.exchange import Request
from plugins.access_log import AccessLog
from plugins.authorize import Authorize, Config
from tests.fixtures.callers import Known, caller
from tests.play import Played, Stage, ask

BOOKS = {"permission": "books:{action}"}


async def played(
    stage: Stage,
    consumer: Consumer | None,
    request: Request,
    parameters: Mapping[str, str] | None = None,
    **options: Any,
) -> Played:
    return await stage.play(
        stage.make(AccessLog), Known(consumer, parameters), stage.make(Authorize, **options), request=request
    )


async def status(stage: Stage, consumer: Consumer | None, request: Request, **options: Any) -> int:
    return (await played(stage, consumer, request, **options)).response.status


@pytest.mark.parametrize(
    ("method", "permission", "wanted"),
    [
        ("GET", "agents:{method}", "agents:get"),
        ("HEAD", "agents:{method}", "agents:head"),
        ("GET", "books:{action}", "books:read"),
        ("HEAD", "books:{action}", "books:read"),
        ("POST", "books:{action}", "books:create"),
        ("PATCH", "books:{action}", "books:update"),
        ("DELETE", "books/{param.id}:{action}", "books/7:delete"),
        ("GET", "{organization}/{consumer}/{user}:read", "acme/ann/u-7:read"),
        ("GET", "books:read", "books:read"),
    ],
)
async def test_what_a_request_wants(stage: Stage, method: str, permission: str, wanted: str) -> None:
    for _ in range(2):  # the second is remembered
        options = {"parameters": {"id": "7"}, "permission": permission}
        assert await status(stage, caller(wanted), ask(method=method), **options) == 200
        refused = await played(stage, caller("other:*"), ask(method=method), **options)
        assert refused.response.status == 403
        assert refused.seen_upstream is None
        problem = json.loads(refused.body)
        assert problem["type"].endswith("/permission-denied")
        assert (problem["needed"], problem["detail"]) == (wanted, f"This needs {wanted}.")


async def test_a_denial_wins(stage: Stage) -> None:
    consumer = caller("!books:delete", "*")
    assert await status(stage, consumer, ask(method="GET"), **BOOKS) == 200
    assert await status(stage, consumer, ask(method="DELETE"), **BOOKS) == 403


async def test_any_and_all(stage: Stage) -> None:
    both, one = caller("books:read", "notes:read"), caller("notes:read")
    names = ["books:read", "notes:read"]
    assert await status(stage, both, ask(), all=names) == 200
    assert await status(stage, one, ask(), all=names) == 403
    assert await status(stage, one, ask(), any=names) == 200
    refused = await played(stage, caller(), ask(), any=names)
    assert json.loads(refused.body)["needed"] == "books:read or notes:read"


async def test_roles_and_scopes(stage: Stage) -> None:
    ann = caller(roles=frozenset({"editor"}), scopes=frozenset({"a", "b"}))
    assert await status(stage, ann, ask(), roles=["admin", "editor"]) == 200
    assert await status(stage, ann, ask(), roles=["admin"]) == 403
    assert await status(stage, ann, ask(), scopes=["a", "b"]) == 200
    assert await status(stage, ann, ask(), scopes=["a", "c"]) == 403
    assert await status(stage, ann, ask(), roles=["editor"], scopes=["c"]) == 403
    assert await status(stage, ann, ask(), roles=["editor"], permission="books:read") == 403


async def test_a_condition_of_the_route(stage: Stage) -> None:
    when = "param.organization == organization and method != 'DELETE'"
    mine, hers = {"organization": "acme"}, {"organization": "other"}
    assert await status(stage, caller(), ask(), parameters=mine, when=when) == 200
    assert await status(stage, caller(), ask(), parameters=hers, when=when) == 403
    assert await status(stage, caller(), ask(), parameters={}, when=when) == 403
    refused = await played(stage, caller(), ask(method="DELETE"), parameters=mine, when=when)
    assert refused.response.status == 403
    assert b"organization" not in refused.body, "a condition is not the caller's to read"


async def test_a_condition_of_a_permission(stage: Stage) -> None:
    consumer = caller("notes:* if param.owner == user")
    options = {"permission": "notes:{action}"}
    assert await status(stage, consumer, ask(), parameters={"owner": "u-7"}, **options) == 200
    assert await status(stage, consumer, ask(), parameters={"owner": "u-8"}, **options) == 403


async def test_who_is_not_known_is_not_asked_what_he_may(stage: Stage) -> None:
    assert await status(stage, None, ask(), **BOOKS) == 401


async def test_a_method_without_an_action_is_refused(stage: Stage) -> None:
    assert await status(stage, caller("*"), ask(method="PURGE"), **BOOKS) == 403
    assert await status(stage, caller("*"), ask(method="PURGE"), actions={"PURGE": "purge"}, **BOOKS) == 200
    assert await status(stage, caller("*"), ask(method="PURGE"), permission="books:{method}") == 200


@pytest.mark.parametrize(
    ("method", "permission", "consumer", "needed"),
    [
        ("PURGE", "books/{param.id}:{action}", {}, "another method"),
        ("A!B", "books:{method}", {}, "another method"),
        ("GET", "books/{param.id}:{action}", {}, "a path that a permission can name"),
        ("GET", "{user}/books:{action}", {"user": ""}, "a user that a permission can name"),
        ("GET", "{consumer}/books:{action}", {"name": "a b"}, "a caller that a permission can name"),
        ("GET", "{organization}/books:{action}", {"organization": "a/b"}, "an organization that a permission can name"),
    ],
)
@pytest.mark.parametrize("external", [None, {"upstream": "opa"}])
async def test_what_no_permission_can_say_is_refused_in_words(
    stage: Stage, method: str, permission: str, consumer: dict[str, str], needed: str, external: dict[str, str] | None
) -> None:
    who = Consumer(**{"name": "ann", "organization": "acme", "permissions": ("*",), **consumer})  # type: ignore[arg-type]
    path = {"id": "a/b" if method == "GET" else "7"}
    options = {"permission": permission, "external": external}
    refused = await played(stage, who, ask(method=method), parameters=path, **options)
    problem = json.loads(refused.body)
    assert (refused.response.status, problem["detail"], problem["needed"]) == (403, f"This needs {needed}.", needed)
    assert refused.seen_upstream is None


async def test_several_of_the_same_are_said_once(stage: Stage) -> None:
    refused = await played(stage, caller("*"), ask(method="PURGE"), any=["books:{action}", "notes:{action}"])
    assert json.loads(refused.body)["detail"] == "This needs another method."


async def test_what_was_refused_is_written_down_and_what_was_allowed_on_request(stage: Stage) -> None:
    await played(stage, caller("notes:*"), ask(), **BOOKS)
    await played(stage, caller("books:*"), ask(), **BOOKS)
    await played(stage, caller("books:*"), ask(), log_allowed=True, **BOOKS)
    said = [(line["wanted"], line["allowed"], line["because"]) for line in stage.access_log.lines]
    assert said == [
        ("books:read", False, "nothing grants it"),
        (None, None, None),
        ("books:read", True, "books:* grants it"),
    ]
    denied = stage.metrics.counter(
        "tallygate_authorize_denied_total", "Requests that were refused for lack of a permission.", ("route",)
    )
    assert denied.labels("r").value == 1


async def test_permissions_that_cannot_be_read_are_counted(stage: Stage) -> None:
    assert await status(stage, caller("*", "Bücher:lesen"), ask(), **BOOKS) == 200
    assert await status(stage, caller("*", "!Bücher:lesen"), ask(), **BOOKS) == 403
    count = stage.metrics.counter(
        "tallygate_authorize_unreadable_total", "Decisions about callers with a permission that cannot be read."
    )
    assert count.value == 2


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "needs at least one of permission"),
        ({"permission": "books:*"}, "not one permission"),
        ({"permission": "Books"}, "not one permission"),
        ({"permission": "books:{mehtod}"}, "unknown name {mehtod}"),
        ({"permission": "books:{header.x}"}, "unknown name {header.x}"),
        ({"permission": "books:{param.}"}, "unknown name {param.}"),
        ({"permission": "books:{method"}, "a brace without its other"),
        ({"any": ["books:read", "x"]}, "not one permission"),
        ({"any": []}, "at least 1 item"),
        ({"when": "usr == 'x'"}, "unknown fact usr"),
        ({"scopes": ["a b"]}, "pattern"),
        ({"permission": "a:b", "actions": {"get": "read"}}, "not a method"),
        ({"permission": "a:b", "actions": {"GET": "a:b"}}, "not an action"),
        ({"any": ["a:b"], "external": {"upstream": "opa"}}, "do not go with it"),
        ({"external": {"upstream": "opa", "on_failure": "local"}}, "needs a `permission`"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Config.model_validate(options)
    assert complaint in str(caught.value)
