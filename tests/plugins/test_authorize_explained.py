"""What `authorize` says of a request before anybody sends it, and that it decides the same when somebody does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from gateway.clock import Clock
from gateway.consumers import Consumer
from gateway.exchange import Exchange, Request
from gateway.headers import Headers
from gateway.problem import Problem
from plugins.authorize import Authorize, Config
from tests.fixtures.callers import Known, caller
from tests.play import Stage, ask


def explained(
    consumer: Consumer | None, request: Request, parameters: Mapping[str, str] | None = None, **options: Any
) -> tuple[list[str], int]:
    """Its sentences, and the status it would refuse with; 0 where it would not."""
    exchange = Exchange(request, Clock())
    exchange.consumer, exchange.parameters = consumer, parameters or {}
    said: list[str] = []
    try:
        said.extend(Authorize.explain(Config.model_validate(options), exchange))
    except Problem as refusal:
        return said, refusal.status
    return said, 0


EVERYTHING: dict[str, Any] = {
    "permission": "books/{param.id}:{action}",
    "roles": ["admin", "editor"],
    "scopes": ["a", "b"],
    "when": "hour < 24",
}


def test_without_a_caller_it_says_what_is_needed() -> None:
    assert explained(None, ask(method="DELETE"), {"id": "7"}, **EVERYTHING) == (
        [
            "needs role admin or editor",
            "needs scope a and b",
            "needs the condition hour < 24",
            "needs books/7:delete",
        ],
        0,
    )
    of_the_caller = {"any": ["{organization}/{param.id}:{action}", "notes:{method}"]}
    assert explained(None, ask(), {"id": "7"}, **of_the_caller) == (["needs {organization}/7:read or notes:get"], 0)
    assert explained(None, ask(), {}, permission="books/{param.id}:read") == (["needs books/{param.id}:read"], 0)


def test_with_a_caller_it_says_of_each_thing_whether_and_why() -> None:
    ann = caller("books/*:read", roles=frozenset({"editor"}), scopes=frozenset({"a", "b"}))
    granted = [
        "role admin or editor: allowed, the caller has it",
        "scope a and b: allowed, the caller has it",
        "the condition hour < 24: allowed, it holds",
    ]
    assert explained(ann, ask(), {"id": "7"}, **EVERYTHING) == (
        [*granted, "books/7:read: allowed, books/*:read grants it"],
        0,
    )
    assert explained(ann, ask(method="PUT"), {"id": "7"}, **EVERYTHING) == (
        [*granted, "books/7:update: refused, nothing grants it"],
        403,
    )
    unsayable = "books/{param.id}:{action}: refused, no permission can say what this request wants"
    assert explained(ann, ask(), {"id": "a/b"}, **EVERYTHING) == ([*granted, unsayable], 403)


def test_a_policy_service_is_named_and_not_asked() -> None:
    options = {"permission": "books:{action}", "external": {"upstream": "opa"}}
    elsewhere = "upstream opa decides; without its answer: deny"
    assert explained(None, ask(), **options) == (["needs books:read", elsewhere], 0)
    nothing = "books:read: refused, nothing grants it"
    assert explained(caller(), ask(), **options) == ([nothing, elsewhere], 0)
    denied = "books:read: refused, !books:* denies it"
    assert explained(caller("*", "!books:*"), ask(), **options) == ([denied, elsewhere], 403)
    assert explained(caller(), ask(), roles=["admin"], **options)[1] == 403


def test_another_method_in_a_field() -> None:
    request = Request("GET", "/", Headers({"X-HTTP-Method-Override": "DELETE"}))
    assert explained(None, request, permission="books:read") == ([], 422)
    assert explained(None, request, permission="books:read", method_override=True) == (["needs books:read"], 0)


@pytest.mark.parametrize("permissions", [(), ("books:read",), ("*", "!books:*"), ("books:read if user == 'u-8'",)])
@pytest.mark.parametrize(
    "options",
    [
        {"permission": "books:{action}"},
        {"any": ["books:{action}", "notes:read"]},
        {"all": ["books:{action}", "books:read"]},
        {"permission": "books:{action}", "roles": ["editor"]},
        {"permission": "books:{action}", "when": "organization == 'acme'"},
        {"when": "param.owner == user"},
    ],
)
async def test_it_would_refuse_what_it_refuses(
    stage: Stage, permissions: tuple[str, ...], options: dict[str, Any]
) -> None:
    for ann in (caller(*permissions), caller(*permissions, roles=frozenset({"editor"}))):
        for method in ("GET", "PUT", "PURGE"):
            played = await stage.play(Known(ann), stage.make(Authorize, **options), request=ask(method=method))
            _, refused = explained(ann, ask(method=method), **options)
            assert (refused or 200) == played.response.status
