"""Explanation with a caller who is assumed: who would be let in, who not, and with which status."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.assumed import Assumed
from gateway.config.configuration import GatewayConfig
from gateway.explanation import Explanation, explain, request_of
from tests.fixtures.configuration import loaded

CONFIG = """
listeners: [{bind: "127.0.0.1:8080"}]
upstreams: {books: {targets: ["http://10.0.0.1:9001"]}}
roles: {reader: ["books/*:read"], editor: ["books/*:*"]}
consumers: [{name: robot, organization: acme, roles: [reader]}]
plugins: [request_id: ]
routes:
  - name: book
    match: {path: "/books/{id}"}
    upstream: books
    plugins:
      - ip_filter: {deny: [192.0.2.0/24]}
      - key_auth:
      - authorize: {permission: "books/{param.id}:{action}"}
      - rewrite: {path: "/of/{consumer}/{param.id}"}
  - {name: open, match: {path: "/open"}, upstream: books, plugins: [rewrite: {path: "/of/{consumer}"}]}
"""


@pytest.fixture
def config(here: Path) -> GatewayConfig:
    return loaded(CONFIG)


def explained(config: GatewayConfig, method: str, url: str, **caller: object) -> Explanation:
    return explain(config, request_of(method, url, []), Assumed(**caller))  # type: ignore[arg-type]


def says(found: Explanation) -> dict[str, list[str]]:
    return {plugin.name: plugin.says for plugin in found.plugins if plugin.says}


def refusals(found: Explanation) -> dict[str, str]:
    return {plugin.name: plugin.refusal for plugin in found.plugins if plugin.refusal}


def test_anybody(config: GatewayConfig) -> None:
    found = explained(config, "PUT", "/books/7")
    assert says(found) == {
        "ip_filter": ["it depends on the client's address"],
        "authorize": ["needs books/7:update"],
        "rewrite": ["the target is not known: This needs a consumer in the request, and there is none."],
    }
    assert (found.status, refusals(found)) == (0, {})


def test_somebody_who_may(config: GatewayConfig) -> None:
    found = explained(config, "GET", "/books/7", name="robot", client="198.51.100.1")
    assert says(found) == {
        "ip_filter": ["198.51.100.1 may come in"],
        "authorize": ["books/7:read: allowed, books/*:read grants it"],
    }
    assert (found.status, found.plugins[-1].target) == (0, "/of/robot/7")


def test_somebody_who_may_not(config: GatewayConfig) -> None:
    found = explained(config, "PUT", "/books/7", name="robot")
    assert (found.route, found.status, found.title) == ("book", 403, "The caller is known, and may not do this")
    assert refusals(found) == {"authorize": "403 This needs books/7:update."}
    assert found.plugins[-1].target is None, "what stands behind a refusal is not reached"
    assert explained(config, "PUT", "/books/7", name="robot", roles=("editor",)).status == 0
    assert explained(config, "PUT", "/books/7", organization="x", permissions=("*", "!books/7:*")).status == 403


def test_the_first_that_refuses_does(config: GatewayConfig) -> None:
    found = explained(config, "PUT", "/books/7", name="robot", client="192.0.2.9")
    assert refusals(found) == {"ip_filter": "403 Requests from this address are not accepted here"}
    assert says(found) == {}


def test_where_nobody_asks_who_calls_there_is_no_caller(config: GatewayConfig) -> None:
    found = explained(config, "GET", "/open", name="robot")
    assert found.plugins[-1].target is None


SECRETIVE = """
listeners: [{bind: "127.0.0.1:8080"}]
upstreams: {books: {targets: ["http://10.0.0.1:9001"]}}
consumers: [{name: robot, organization: acme, attributes: {site: "${TOKEN}"}}]
routes:
  - name: book
    upstream: books
    plugins:
      - key_auth:
      - authorize:
          when: "attribute.site == '${TOKEN}' and path != '$${x}'"
          permission: "books/${PART:-b}:${method}"
      - rewrite: {query: "key=${TOKEN}"}
"""


def test_what_came_from_the_environment_is_not_told(here: Path) -> None:
    config = loaded(SECRETIVE, TOKEN="s3cr3t", PART="b-secret")
    found = explained(config, "GET", "/x", name="robot", permissions=("*",))
    assert found.status == 0
    assert "s3cr3t" not in repr(found)
    assert "b-secret" not in repr(found)
    assert says(found)["authorize"] == [
        """the condition attribute.site == "${TOKEN}" and path != "${x}": allowed, it holds""",
        "books/${PART:-b}:get: allowed, *:* grants it",
    ]
    assert (found.plugins[-1].target, found.upstreams[0].request) == ("/x?key=${TOKEN}", "GET /x?key=${TOKEN}")
    refused = explained(config, "GET", "/x", organization="other")
    assert "b-secret" not in repr(refused)
    assert refused.status == 403
