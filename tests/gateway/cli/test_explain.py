"""`tallygate explain`: what it prints, from a file and from a running gateway, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from gateway.assumed import Assumed
from gateway.cli.main import main
from gateway.config.composition import load
from gateway.explanation import explain, request_of
from tests.gateway.cli.test_config import Running, running
from tests.gateway.test_explanation import SPLIT

__all__ = ["running"]

CONFIG = """\
listeners: [{bind: "127.0.0.1:8080"}]
admin: {bind: "127.0.0.1:%d"}
upstreams: {demo: {targets: ["http://127.0.0.1:9001"], retry: {attempts: 2}}}
plugins: [request_id: ]
routes:
  - name: book
    match: {host: api.example.com, path: "/books/{id}", methods: [GET]}
    upstream: demo
    plugins: [rewrite: {path: "/v2/{param.id}"}]
  - {name: mine, match: {path: /mine}, upstream: demo, plugins: [rewrite: {path: "/of/{consumer}"}]}
"""

TAKEN = """\
GET /books/7?x=1  (host api.example.com)
route book
  {id} is 7
plugins, in order (a response passes them in reverse)
  request_id  on_request, on_response
    Give every request an id, say it to the upstream and to the client.
  rewrite     on_request
    Change the target of a request before it goes upstream: take off a prefix, put one on, replace, or make it anew.
    the target becomes /v2/7?x=1
limits
  max_body  4GiB
upstream demo, round robin
  http://127.0.0.1:9001
  is sent GET /v2/7?x=1, Host: api.example.com
  timeouts         connect 2s, first_byte 30s, idle 1m, total 5m
  max_connections  512 per process, 1024 calls may wait
  retry            2 attempts
other routes
  mine  the path is not /mine
"""


@pytest.fixture
def file(here: Path) -> Path:
    path = here / "gateway.yaml"
    path.write_text(CONFIG % 9090)
    return path


def test_a_request_that_a_route_takes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "GET", "http://api.example.com/books/7?x=1"]) == 0
    assert capsys.readouterr().out == TAKEN
    assert main(["explain", "GET", "/books/7?x=1", "-H", "Host: api.example.com", "--config", str(file)]) == 0
    assert capsys.readouterr().out == TAKEN


def test_a_route_with_more_than_one_upstream_behind_it(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(SPLIT)
    assert main(["explain", "GET", "/x", "-H", "x-user: bob"]) == 0
    printed = capsys.readouterr().out
    assert "upstream old, round robin, 9 of 10 requests" in printed
    assert "upstream new, round robin, 1 of 10 requests" in printed
    assert printed.count(", this one too\n") == 1
    assert "should that fail: spare\nmirrored to spare\n" in printed


def test_requests_that_none_takes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "GET", "/nowhere"]) == 1
    assert "no route: 404 No route matches this request\n" in capsys.readouterr().out
    assert main(["explain", "PUT", "http://api.example.com/books/7"]) == 1
    printed = capsys.readouterr().out
    assert "no route: 405 This path exists, but not with this method, Allow: GET\n" in printed
    assert "book  the method is PUT, not GET\n" in printed


def test_what_is_not_known_is_said(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "GET", "/mine"]) == 0
    assert "the target is not known: This needs a consumer in the request" in capsys.readouterr().out


def test_a_request_that_is_none(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "GET", "http://a/../x"]) == 1
    assert capsys.readouterr().out == (
        "refused before it is routed: 400 The request is not valid HTTP: The path climbs above its root.\n"
    )
    for wrong in (["-H", "novalue"], ["-H", ": x"]):
        with pytest.raises(SystemExit) as senseless:
            main(["explain", "GET", "/", *wrong])
        assert senseless.value.code == 2


GUARDED = """\
listeners: [{bind: "127.0.0.1:8080"}]
admin: {bind: "127.0.0.1:%d"}
upstreams: {demo: {targets: ["http://127.0.0.1:9001"]}}
consumers: [{name: robot, organization: acme, permissions: ["books:read"]}]
routes:
  - name: books
    match: {path: /books}
    upstream: demo
    plugins: [key_auth: , authorize: {permission: "books:{action}"}]
"""


def test_a_caller_who_is_assumed(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(GUARDED % 9090)
    assert main(["explain", "GET", "/books"]) == 0
    assert "    needs books:read\n" in capsys.readouterr().out
    assert main(["explain", "GET", "/books", "--as", "robot"]) == 0
    printed = capsys.readouterr().out
    assert "    books:read: allowed, books:read grants it\n" in printed
    assert "upstream demo" in printed
    assert main(["explain", "PUT", "/books", "--as", "robot"]) == 1
    printed = capsys.readouterr().out
    assert "    books:update: refused, nothing grants it\n    refuses: 403 This needs books:update.\n" in printed
    assert printed.endswith("refused: 403 The caller is known, and may not do this; no upstream is called\n")
    described = ["--organization", "x", "--permission", "books:*", "--permission", "!books:delete"]
    assert main(["explain", "PUT", "/books", *described]) == 0
    assert main(["explain", "DELETE", "/books", *described]) == 1
    assert main(["explain", "GET", "/books", "--as", "robto"]) == 2
    assert 'did you mean "robot"?' in capsys.readouterr().err


def test_a_running_gateway_is_told_who_calls(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    Path("gateway.yaml").write_text(GUARDED % running.port)
    caller = Assumed(name="robot", roles=("a", "b"))
    found = explain(load("gateway.yaml", {}), request_of("PUT", "/books", []), caller)
    running.document = msgspec.to_builtins(found)
    assert main(["explain", "PUT", "/books", "--as", "robot", "--role", "a", "--role", "b", "--running"]) == 1
    assert "refuses: 403" in capsys.readouterr().out
    assert running.asked == ["GET /explain?method=PUT&url=%2Fbooks&name=robot&roles=a&roles=b"]


def test_a_running_gateway_is_asked(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    Path("gateway.yaml").write_text(CONFIG % running.port)
    config = load("gateway.yaml", {})
    running.document = msgspec.to_builtins(explain(config, request_of("GET", "http://api.example.com/books/7?x=1", [])))
    assert main(["explain", "GET", "http://api.example.com/books/7?x=1", "-H", "X-A: b&c", "--running"]) == 0
    assert capsys.readouterr().out == TAKEN
    path = "/explain?method=GET&url=http%3A%2F%2Fapi.example.com%2Fbooks%2F7%3Fx%3D1&header=X-A%3A+b%26c"
    assert running.asked == [f"GET {path}"]
    assert main(["explain", "GET", "/x", "--admin", f"127.0.0.1:{running.port}"]) == 0
    assert len(running.asked) == 2


def test_a_running_gateway_that_refuses(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    running.status, running.document = 400, json.loads('{"title": "The request is not valid HTTP", "status": 400}')
    assert main(["explain", "GET", "/../x", "--running"]) == 1
    assert capsys.readouterr().err.endswith("does not explain: The request is not valid HTTP\n")
