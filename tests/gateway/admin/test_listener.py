"""Admin: what operators ask, answered plainly; everything else refused without internals."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.admin import Admin, AdminOptions, describe_routes
from gateway.config.configuration import load
from gateway.exposition import Exposition, Source
from gateway.metrics import Metrics
from gateway.problem import ConfigurationRefused

ROUTES = [{"name": "books", "match": {"path": "/books/*"}, "plugins": ["key_auth"], "upstream": {"name": "books"}}]


class Operated:
    """A node that says what it is told to."""

    def __init__(self) -> None:
        self.ready: tuple[bool, dict[str, Any]] | Exception = (True, {"processes": {"edge-0": "ready"}})
        self.errors: list[str] = []
        self.reloads = 0

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        if isinstance(self.ready, Exception):
            raise self.ready
        return self.ready

    def routes(self) -> list[dict[str, Any]]:
        return ROUTES

    def description(self) -> dict[str, dict[str, str]]:
        return {"route books": {"upstream": "books"}}

    async def reload(self) -> list[str]:
        if self.errors:
            raise ConfigurationRefused(errors=self.errors)
        self.reloads += 1
        return ["  route books: added"]


class Served:
    """A running admin listener, and its node."""

    def __init__(self, cells: Path) -> None:
        self.node = Operated()
        exposition = Exposition(lambda: [Source("0", cells, True)])
        self.admin = Admin(AdminOptions(bind="127.0.0.1:0"), exposition=exposition, node=self.node)

    async def ask(self, path: str, method: str = "GET", **fields: str) -> tuple[int, dict[str, str], bytes]:
        host, port = self.admin.bound[:2]
        asking = aiohttp.request(method, f"http://{host}:{port}{path}", headers=fields)
        async with asking as answer:
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}, await answer.read()


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    Metrics(tmp_path / "cells").counter("served_total", "Served.", ("route",)).labels('a"b').inc(3)
    served = Served(tmp_path / "cells")
    await served.admin.start()
    yield served
    await served.admin.stop()
    await served.admin.stop()


async def test_health_is_about_being_alive_only(served: Served) -> None:
    served.node.ready = (False, {})
    status, headers, body = await served.ask("/health")
    assert (status, json.loads(body)) == (200, {"status": "alive"})
    assert headers["content-type"].startswith("application/json")
    assert headers["cache-control"] == "no-store"
    assert "python" not in headers["server"].lower()


@pytest.mark.parametrize(("ready", "status"), [(True, 200), (False, 503)])
async def test_ready_tells_a_load_balancer_by_its_status(served: Served, ready: bool, status: int) -> None:
    served.node.ready = (ready, {"stores": {"redis": {"state": "down"}}})
    answer = await served.ask("/ready")
    assert answer[0] == status
    assert json.loads(answer[2]) == {"ready": ready, "stores": {"redis": {"state": "down"}}}


async def test_metrics_are_in_the_format_prometheus_reads(served: Served) -> None:
    status, headers, body = await served.ask("/metrics")
    assert status == 200
    assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b'served_total{route="a\\"b"} 3.0\n' in body


async def test_routes(served: Served) -> None:
    status, _, body = await served.ask("/routes")
    assert (status, json.loads(body)) == (200, {"routes": ROUTES})


async def test_the_configuration_as_it_may_be_shown(served: Served) -> None:
    status, _, body = await served.ask("/configuration")
    assert (status, json.loads(body)) == (200, {"configuration": {"route books": {"upstream": "books"}}})


async def test_a_reload_that_is_taken_says_what_has_changed(served: Served) -> None:
    status, _, body = await served.ask("/reload", "POST")
    assert (status, json.loads(body)) == (200, {"changes": ["  route books: added"]})
    assert served.node.reloads == 1


async def test_a_reload_that_is_refused_says_all_that_is_wrong(served: Served) -> None:
    served.node.errors = ["gateway.yaml:1: routes: needs at least 1 item", "gateway.yaml:3: unknown key"]
    status, headers, body = await served.ask("/reload", "POST")
    assert status == 422
    assert headers["content-type"] == "application/problem+json"
    assert json.loads(body)["errors"] == served.node.errors


async def test_a_page_in_a_browser_cannot_reload(served: Served) -> None:
    status, _, body = await served.ask("/reload", "POST", origin="http://evil.example")
    assert (status, json.loads(body)["type"].rpartition("/")[2]) == (403, "origin-refused")
    assert (await served.ask("/reload"))[0] == 405
    assert served.node.reloads == 0


async def test_head_is_get_without_a_body(served: Served) -> None:
    for path in ("/health", "/ready", "/metrics", "/routes", "/configuration"):
        status, headers, body = await served.ask(path, "HEAD")
        assert (status, body) == (200, b"")
        assert int(headers["content-length"]) > 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_nothing_can_be_changed(served: Served, method: str) -> None:
    status, headers, body = await served.ask("/health", method)
    assert status == 405
    assert headers["allow"] == "GET, HEAD"
    assert headers["content-type"] == "application/problem+json"
    assert json.loads(body)["status"] == 405


async def test_an_unknown_path_is_a_problem(served: Served) -> None:
    status, headers, body = await served.ask("/metricz")
    assert status == 404
    assert headers["content-type"] == "application/problem+json"
    assert "/metrics" in json.loads(body)["detail"]


async def test_a_bug_shows_no_internals(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    served.node.ready = RuntimeError("secret internals")
    status, _, body = await served.ask("/ready")
    assert status == 500
    assert b"secret" not in body
    assert "secret internals" in caplog.text


async def test_a_port_in_use_is_an_error_and_leaves_nothing_open(served: Served, tmp_path: Path) -> None:
    taken = AdminOptions(bind="{}:{}".format(*served.admin.bound))
    other = Admin(taken, exposition=Exposition(list), node=served.node)
    with pytest.raises(OSError, match="in use"):
        await other.start()


def test_what_routes_shows_of_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(
        "listeners: [{bind: '127.0.0.1:0'}]\n"
        "upstreams: {books: {targets: ['http://127.0.0.1:1', 'http://127.0.0.1:2']}}\n"
        "routes: [{name: books, upstream: books, match: {path: /books/*, methods: [GET]}}]\n"
    )
    assert describe_routes(load(tmp_path / "gateway.yaml", {})) == [
        {
            "name": "books",
            "match": {"path": "/books/*", "methods": ["GET"]},
            "plugins": [],
            "upstream": {"name": "books", "targets": ["http://127.0.0.1:1", "http://127.0.0.1:2"]},
        }
    ]
