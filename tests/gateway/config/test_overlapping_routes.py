"""Two routes for the same requests are refused, however they are written; where one is more specific, they are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.composition import ConfigError
from tests.fixtures.configuration import loaded

HEAD = 'listeners: [{bind: "127.0.0.1:0"}]\nupstreams: {u: {targets: ["http://127.0.0.1:1"]}}\nroutes:\n'
ALIKE = "gateway.yaml:5: routes[1]: matches what an earlier route takes"


def routes(*matches: str) -> str:
    lines = [f"  - {{name: r{number}, upstream: u, match: {match}}}" for number, match in enumerate(matches)]
    return HEAD + "\n".join(lines)


@pytest.mark.parametrize(
    ("first", "second", "which"),
    [
        ('{path: "/books/{id}"}', '{path: "/books/{name}"}', ""),
        ("{path: /%7Ebooks}", "{path: /~books}", ""),
        ("{path: /a, host: API.example.com}", "{host: api.example.com, path: /a}", ""),
        ('{path: /a, headers: {X-Beta: "1"}}', '{path: /a, headers: {x-beta: "1"}}', ""),
        ("{path: /a, methods: [GET, PUT]}", "{path: /a, methods: [PUT, GET]}", ""),
        ("{path: /a, methods: [GET, PUT]}", "{path: /a, methods: [GET]}", ""),
        ("{path: /a, methods: [GET, PUT]}", "{path: /a, methods: [PUT, POST]}", " with PUT"),
    ],
)
def test_what_can_never_be_reached_is_refused(here: Path, first: str, second: str, which: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(routes(first, second))
    assert caught.value.errors == [f"{ALIKE}{which} (first in gateway.yaml:4)"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("{path: /a}", "{path: /a, methods: [GET]}"),
        ("{path: /a}", "{path: /a/*}"),
        ("{path: /a/b}", '{path: "/a/{b}"}'),
        ("{path: /a}", '{path: /a, headers: {X-Beta: "1"}}'),
        ('{path: /a, headers: {X-Beta: "1"}}', '{path: /a, headers: {X-Beta: "2"}}'),
        ("{path: /a}", "{path: /a, host: api.example.com}"),
        ("{path: /a, methods: [GET]}", "{path: /a, methods: [PUT]}"),
    ],
)
def test_what_differs_is_taken(here: Path, first: str, second: str) -> None:
    assert len(loaded(routes(first, second)).routes) == 2


def test_of_three_each_is_told_where_its_own_requests_went(here: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(routes(*[f"{{path: /a, methods: [{methods}]}}" for methods in ("GET", "PUT", "PUT, GET, POST")]))
    assert caught.value.errors == [
        "gateway.yaml:6: routes[2]: matches what an earlier route takes with PUT and GET (first in gateway.yaml:5)"
    ]
