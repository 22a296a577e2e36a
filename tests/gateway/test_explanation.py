"""Explanation: what the router, the chain and the options say of a request, and why other routes do not take it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.configuration import GatewayConfig
from gateway.explanation import MOST_OTHERS, Explanation, explain, request_of
from gateway.problem import BadRequest, NotImplementedHere, Problem
from tests.fixtures.configuration import loaded

CONFIG = """
listeners: [{bind: "127.0.0.1:8080"}]
upstreams:
  books:
    targets: ["http://10.0.0.1:9001", "http://10.0.0.2:9001"]
    balancer: least_connections
    host: books.internal
    retry: {attempts: 4}
    bulkhead: {max_in_flight: 50}
    circuit_breaker: {failure_threshold: 40%}
  other: {targets: ["http://10.0.0.3:9001"]}
plugins: [request_id: ]
routes:
  - name: book
    match: {host: api.example.com, path: "/books/{id}", methods: [GET, PUT], headers: {x-kind: paper}}
    upstream: books
    max_body: 2MiB
    bulkhead: {max_in_flight: 7}
    plugins:
      - key_auth: {query: key}
      - rewrite: {path: "/v2/{param.id}/pages"}
  - {name: books, match: {host: api.example.com, path: /books/*, methods: [GET]}, upstream: books}
  - {name: mine, match: {path: /mine}, upstream: other, plugins: [rewrite: {path: "/of/{consumer}"}]}
"""


@pytest.fixture
def config(here: Path) -> GatewayConfig:
    return loaded(CONFIG)


def explained(config: GatewayConfig, method: str, url: str, **fields: str) -> Explanation:
    given = [(name.replace("_", "-"), value) for name, value in fields.items()]
    return explain(config, request_of(method, url, given))


def test_a_request_that_a_route_takes(config: GatewayConfig) -> None:
    found = explained(config, "PUT", "http://api.example.com/books/7?key=secret&a=b", x_kind="paper")
    assert (found.route, found.parameters, found.host) == ("book", {"id": "7"}, "api.example.com")
    assert [(plugin.name, plugin.hooks, plugin.target) for plugin in found.plugins] == [
        ("request_id", ["on_request", "on_response"], None),
        ("key_auth", ["on_request"], "/books/7?a=b"),
        ("rewrite", ["on_request"], "/v2/7/pages?a=b"),
    ]
    assert found.plugins[1].does == "Know the consumer by an API key."
    (books,) = found.upstreams
    assert (books.name, books.balancer) == ("books", "least_connections")
    assert books.targets == ["http://10.0.0.1:9001", "http://10.0.0.2:9001"]
    assert (books.request, books.host) == ("PUT /v2/7/pages?a=b", "books.internal")
    assert found.limits == {"max_body": "2MiB", "bulkhead": "7 in flight per process, 100 may wait"}
    assert books.limits == {
        "timeouts": "connect 2s, first_byte 30s, idle 1m, total 5m",
        "max_connections": "512 per process, 1024 calls may wait",
        "bulkhead": "50 in flight per process, 100 may wait",
        "retry": "4 attempts",
        "circuit_breaker": "opens at 40% failures of 20 calls or more",
    }


def test_why_other_routes_do_not_take_it(config: GatewayConfig) -> None:
    found = explained(config, "GET", "http://api.example.com/books/7", x_kind="paper")
    assert [(other.name, other.reason) for other in found.others] == [
        ("books", "it matches too, and book is more specific"),
        ("mine", "the path is not /mine"),
    ]
    found = explained(config, "POST", "http://www.example.com/books/7")
    elsewhere = "the host is www.example.com, not api.example.com"
    assert [(other.name, other.reason) for other in found.others] == [
        ("mine", "the path is not /mine"),
        ("books", f"{elsewhere}, and the method is POST, not GET"),
        ("book", f"{elsewhere}, and the method is POST, not GET or PUT, and the field x-kind is not paper"),
    ]


def test_a_request_that_no_route_takes(config: GatewayConfig) -> None:
    found = explained(config, "GET", "/nowhere")
    assert (found.route, found.status, found.title, found.allow) == (None, 404, "No route matches this request", "")
    assert [plugin.name for plugin in found.plugins] == ["request_id"]
    assert (found.upstreams, found.limits) == ([], {})
    assert found.others[-1].reason.startswith("the host is missing, not api.example.com")
    found = explained(config, "DELETE", "http://api.example.com/books/7", x_kind="paper")
    assert (found.route, found.status, found.allow) == (None, 405, "GET, PUT")


def test_what_depends_on_who_calls_is_not_made_up(config: GatewayConfig) -> None:
    found = explained(config, "GET", "/mine")
    (_, rewrite) = found.plugins
    assert rewrite.target is None
    assert rewrite.says == ["the target is not known: This needs a consumer in the request, and there is none."]
    assert (rewrite.refusal, found.status) == (None, 0)
    assert found.upstreams[0].host == "the target's own"


SPLIT = """
listeners: [{bind: "127.0.0.1:8080"}]
upstreams: {old: {targets: ["http://a:1"]}, new: {targets: ["http://b:1"]}, spare: {targets: ["http://c:1"]}}
routes:
  - name: shared
    split: [{upstream: old, weight: 9}, {upstream: new, weight: 1}]
    split_by: {header: x-user}
    fallback: {upstream: spare}
    mirror: {upstream: spare}
"""


def test_several_upstreams_and_which_of_them_a_key_decides_for(here: Path) -> None:
    config = loaded(SPLIT)
    found = explained(config, "GET", "/x")
    assert [(call.name, call.weight) for call in found.upstreams] == [("old", 9), ("new", 1)]
    assert (found.picked, found.fallback, found.mirror) == ("", "spare", "spare")
    picked = [explained(config, "GET", "/x", x_user=f"u{number}").picked for number in range(40)]
    assert set(picked) == {"old", "new"}
    assert picked == [explained(config, "GET", "/y", x_user=f"u{number}").picked for number in range(40)]


def test_only_the_nearest_others_are_named(here: Path) -> None:
    routes = "".join(f"  - {{name: r{n}, match: {{path: /r{n}}}, upstream: u}}\n" for n in range(50))
    head = 'listeners: [{bind: "127.0.0.1:1"}]\nupstreams: {u: {targets: ["http://a:1"]}}\nroutes:\n'
    assert len(explained(loaded(head + routes), "GET", "/r7").others) == MOST_OTHERS


def test_a_secret_in_a_condition_is_not_shown(here: Path) -> None:
    text = CONFIG.replace("x-kind: paper", "x-kind: '${KIND}'")
    config = loaded(text, KIND="top-secret")
    found = explained(config, "GET", "http://api.example.com/books/7", x_kind="top-secret")
    assert (found.route, found.match["headers"]) == ("book", {"x-kind": "${KIND}"})
    found = explained(config, "GET", "http://api.example.com/books/7")
    assert found.others[0].reason == "the field x-kind is not ${KIND}"


@pytest.mark.parametrize(
    ("method", "url", "fields", "problem"),
    [
        ("GET", "http://a/../x", [], BadRequest),
        ("GET", "http://a/%00", [], BadRequest),
        ("GET", "http://a/x#y", [], BadRequest),
        ("GET", "example.com/x", [], BadRequest),
        ("GET", "http://a b/x", [], BadRequest),
        ("G T", "http://a/x", [], BadRequest),
        ("GET", "http://a/x", [("host", "b")], BadRequest),
        ("GET", "http://a/x", [("na me", "b")], BadRequest),
        ("GET", "http://a/x", [("x", "a\r\nHost: b")], BadRequest),
        ("GET", "http://a/x\r\n\r\nGET /y HTTP/1.1", [], BadRequest),
        ("GET", "http://a/é", [], BadRequest),
        ("GET", "http://a/x", [("x", "☃")], BadRequest),
        ("CONNECT", "http://a/x", [], NotImplementedHere),
    ],
)
def test_what_would_be_refused_before_it_is_routed(
    config: GatewayConfig, method: str, url: str, fields: list[tuple[str, str]], problem: type[Problem]
) -> None:
    with pytest.raises(problem):
        explain(config, request_of(method, url, fields))


@pytest.mark.parametrize(
    ("url", "target", "host"),
    [
        ("/a?b", "/a?b", ""),
        ("http://a", "/", "a"),
        ("http://a?b", "/?b", "a"),
        ("https://user:secret@a:8443/x", "/x", "a:8443"),
        ("http://[::1]:80/x", "/x", "[::1]:80"),
        ("*", "*", ""),
    ],
)
def test_a_url_as_it_comes_on_a_connection(url: str, target: str, host: str) -> None:
    request = request_of("OPTIONS", url, [])
    assert (request.target, request.host) == (target, host)


def test_the_host_may_be_said_in_a_field() -> None:
    assert request_of("GET", "/x", [("Host", "a")]).host == "a"


@given(st.text(), st.text(), st.lists(st.tuples(st.text(), st.text()), max_size=3))
def test_whatever_it_is_given_it_reads_or_refuses(method: str, url: str, fields: list[tuple[str, str]]) -> None:
    try:
        request = request_of(method, url, fields)
    except Problem:
        return
    assert request.method == method
