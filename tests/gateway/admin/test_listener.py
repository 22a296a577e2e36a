"""Admin: what operators ask, answered plainly; everything else refused without internals."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from gateway.admin.listener import Admin
from gateway.admin.options import AdminOptions
from gateway.assumed import Assumed
from gateway.explanation import Explanation
from gateway.exposition import Exposition
from tests.fixtures.operated import Served, served

__all__ = ["served"]


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


async def test_routes_and_how_their_targets_are(served: Served) -> None:
    status, _, body = await served.ask("/routes")
    document = json.loads(body)
    assert status == 200
    assert document["routes"][0] == {
        "name": "books",
        "match": {"path": "/books/*"},
        "plugins": [{"name": "key_auth", "hooks": ["on_request"]}],
        "destination": {"upstreams": {"shelves": 3, "new": 1}, "fallback": 503, "mirror": "trial", "mirror_share": 0.1},
    }
    (target,) = document["upstreams"][0]["targets"]
    assert (target["health"], target["reason"], target["agreeing"]) == ("ejected", "failures in a row", 1)
    assert document["silent"] == ["edge-1"]


async def test_status_is_what_the_page_shows(served: Served) -> None:
    status, _, body = await served.ask("/status")
    assert (status, json.loads(body)) == (200, msgspec.to_builtins(served.node.now))


async def test_an_explanation(served: Served) -> None:
    status, _, body = await served.ask("/explain?method=PUT&url=/books/1?a%3Db&header=Host:%20a&header=x-a:b")
    assert (status, msgspec.json.decode(body, type=Explanation)) == (200, served.node.explanation)
    assert served.node.explained == ("PUT", "/books/1?a=b", [("Host", "a"), ("x-a", "b")], Assumed())
    await served.ask("/explain?url=/&name=bob&roles=a&roles=b&client=192.0.2.7")
    assert served.node.explained == ("GET", "/", [], Assumed(name="bob", roles=("a", "b"), client="192.0.2.7"))
    status, _, body = await served.ask("/explain")
    assert (status, json.loads(body)["type"].rpartition("/")[2]) == (400, "bad-request")


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
    for path in ("/", "/page.js", "/health", "/ready", "/metrics", "/status", "/routes", "/configuration"):
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
