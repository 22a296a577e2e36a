from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.exchange import Exchange
from gateway.path import normalized_path
from gateway.plugin import Plugin, PluginConfig
from gateway.problem import BadRequest
from plugins.rewrite import LONGEST_REMEMBERED, MOST_REMEMBERED, Config, Rewrite
from tests.fixtures.wire import Edge, Target
from tests.play import Played, Stage, ask

USERS = {"pattern": "^/users/([^/]+)/(?P<rest>.*)$", "with": "/people/{1}/all/{rest}"}


class Routed(Plugin[PluginConfig]):
    """Stands in for the router."""

    def on_request(self, exchange: Exchange) -> None:
        exchange.parameters = {"id": "a/../b?c", "name": "x"}


async def rewrite(stage: Stage, target: str, **options: Any) -> Played:
    return await stage.play(stage.make(Routed), stage.make(Rewrite, **options), request=ask(target))


@pytest.mark.parametrize(
    ("options", "target", "new"),
    [
        ({"strip_prefix": "/api/v1"}, "/api/v1/books?a=%20&b", "/books?a=%20&b"),
        ({"strip_prefix": "/api/v1"}, "/api/v1", "/"),
        ({"strip_prefix": "/api/v1"}, "/api/v1/", "/"),
        ({"strip_prefix": "/api/v1"}, "/api/v1?", "/?"),
        ({"strip_prefix": "/api/v1"}, "/api/v10/x", "/api/v10/x"),
        ({"strip_prefix": "/api/v1"}, "/other/%7e/./x", "/other/%7e/./x"),
        ({"strip_prefix": "/api/v1"}, "/%61pi/v1/a%2Fb", "/a%2Fb"),
        ({"strip_prefix": "/api/v1"}, "/api/v1//b", "//b"),
        ({"add_prefix": "/internal"}, "/", "/internal/"),
        ({"add_prefix": "/internal"}, "/a?b", "/internal/a?b"),
        ({"strip_prefix": "/v1", "add_prefix": "/v2"}, "/v1/a", "/v2/a"),
        ({"replace": USERS}, "/users/bob/x/y?z", "/people/bob/all/x/y?z"),
        ({"replace": USERS}, "/other", "/other"),
        ({"replace": {"pattern": "[.]php", "with": ""}}, "/a.php/b.php", "/a/b.php"),
        ({"replace": {"pattern": "(x)?b", "with": "{1}c"}}, "/b", "/c"),
        ({"path": "/fixed"}, "/a/b?c", "/fixed?c"),
        ({"path": "/v2/{param.name}{path}"}, "/a/b?c", "/v2/x/a/b?c"),
        ({"path": "/v2/{param.id}/pages"}, "/a", "/v2/a%2F..%2Fb%3Fc/pages"),
        ({"query": ""}, "/a?b", "/a"),
        ({"add_prefix": "/a"}, "*", "*"),
        ({"query": "lang=en&{query}"}, "/a?b", "/a?lang=en&b"),
        ({"path": "/find", "query": "id={param.id}"}, "/a", "/find?id=a%2F..%2Fb%3Fc"),
    ],
)
async def test_the_target_becomes(stage: Stage, options: dict[str, Any], target: str, new: str):
    played = await rewrite(stage, target, **options)
    assert played.seen_upstream is not None
    assert played.seen_upstream.target == new


@pytest.mark.parametrize("target", ["/a/b/../b/../../a/b/secret", "/a/b/%2e%2e/b/x", "/x/%2E%2e/a/b/../b/y"])
async def test_no_spelling_climbs_out_of_a_prefix(stage: Stage, target: str):
    played = await rewrite(stage, target, strip_prefix="/a/b", add_prefix="/public")
    assert played.seen_upstream is not None
    new = played.seen_upstream.target
    assert new.startswith("/public/")
    assert normalized_path(new) == new


@pytest.mark.parametrize(
    ("options", "target"),
    [
        ({"replace": {"pattern": "^/x", "with": "/files/"}}, "/x../secret"),
        ({"replace": {"pattern": "^/", "with": ""}}, "/a"),
        ({"path": "/{param.none}"}, "/a"),
    ],
)
async def test_what_cannot_go_upstream_is_refused(stage: Stage, options: dict[str, Any], target: str):
    played = await rewrite(stage, target, **options)
    assert played.response.status == 400
    assert played.seen_upstream is None


PATHS = st.lists(
    st.sampled_from(["a", "b", "api", ".", "..", "%2e%2E", "%61", "%2F", "x.", ".x", "", "~"]), min_size=1, max_size=7
).map(lambda parts: "/" + "/".join(parts))


@given(PATHS)
def test_a_new_path_is_always_one_that_every_server_reads_alike(path: str):
    try:
        normalized_path(path)
    except BadRequest:
        return  # the router refuses it
    for options in (
        {"strip_prefix": "/a", "add_prefix": "/public"},
        {"replace": {"pattern": "x", "with": "/"}},
        {"replace": {"pattern": "/", "with": ""}},
    ):
        plugin = Rewrite(Config.model_validate(options), None)  # type: ignore[arg-type]
        try:
            new = plugin._rewriting._changed(path)
        except BadRequest:
            continue
        assert new == path or normalized_path(new) == new
        if "add_prefix" in options:
            assert normalized_path(new).startswith("/public/")


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*$", "(.*)(.*)(.*)(.*)x", "a{0,50}a{0,50}x"])
async def test_no_pattern_explodes(stage: Stage, pattern: str):
    """Python's own engine takes minutes, or for ever, for the first of these."""
    plugin = stage.make(Rewrite, replace={"pattern": pattern, "with": "b"})
    began = time.perf_counter()
    await stage.play(plugin, request=ask("/" + "a" * 30_000 + "!"))
    assert time.perf_counter() - began < 1.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "changes nothing"),
        ({"path": "{path}"}, "changes nothing"),
        ({"query": "{query}"}, "changes nothing"),
        ({"query": "a#b"}, "not a query"),
        ({"path": "{path}{query}"}, "not a path"),
        ({"strip_prefix": "/a", "add_prefix": "/a"}, "puts on the prefix that it takes off"),
        ({"replace": {"pattern": "^/a$", "with": "/a"}}, "with itself"),
        ({"replace": {"pattern": "a.*", "with": "{0}"}}, "with itself"),
        ({"replace": {"pattern": r"(a)\1", "with": ""}}, "no look-around"),
        ({"replace": {"pattern": "(?=a)", "with": ""}}, "no look-around"),
        ({"replace": {"pattern": "(", "with": ""}}, "not a pattern of RE2"),
        ({"replace": {"pattern": "((a{100}){100}){100}", "with": ""}}, "not a pattern of RE2"),
        ({"replace": {"pattern": "(a)", "with": "{2}"}}, "no group"),
        ({"replace": {"pattern": "(a)", "with": "{b}"}}, "no group"),
        ({"replace": {"pattern": "a", "with": "{"}}, "brace without its other"),
        ({"replace": {"pattern": "a", "with": "b c"}}, "not a part of a path"),
        ({"replace": {"pattern": "a", "with": "?b"}}, "not a part of a path"),
        ({"replace": {"pattern": "(..)", "with": "%{1}"}}, "not a part of a path"),
        ({"replace": {"pattern": "ü", "with": "b"}}, "percent-encoded"),
        ({"replace": {"pattern": "a{0,1000}b", "with": "c"}}, "too large"),
        ({"path": "/a", "add_prefix": "/b"}, "the whole new path"),
        ({"path": "books"}, "not a path"),
        ({"path": "/a?b"}, "not a path"),
        ({"path": "/{nobody}"}, "unknown name"),
        ({"strip_prefix": "api"}, "not a prefix"),
        ({"strip_prefix": "/api/"}, "not a prefix"),
        ({"strip_prefix": "/"}, "not a prefix"),
        ({"add_prefix": "/a/../b"}, "not a prefix"),
        ({"add_prefix": "/a?b"}, "not a prefix"),
        ({"add_prefix": "/%zz"}, "not a prefix"),
    ],
)
def test_what_makes_no_sense_is_refused(stage: Stage, options: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        stage.make(Rewrite, **options)


async def test_what_is_remembered_is_bounded(stage: Stage):
    plugin = stage.make(Rewrite, add_prefix="/a")
    assert isinstance(plugin, Rewrite)
    for number in range(MOST_REMEMBERED + 10):
        await stage.play(plugin, request=ask(f"/{number}"))
    await stage.play(plugin, request=ask("/" + "x" * LONGEST_REMEMBERED))
    assert plugin._rewriting._remembered.cache_info().currsize == MOST_REMEMBERED


async def test_on_the_wire_the_upstream_hears_the_new_target(stage: Stage):
    edge = Edge(Target(), (stage.make(Rewrite, strip_prefix="/api", replace=USERS),))
    await edge.start()
    await edge.ask(b"GET /api/users/b%20b/x?y=%2F HTTP/1.1\r\nHost: a\r\n\r\n", wait=0.1)
    await edge.stop()
    assert edge.target.text.startswith(b"GET /people/b%20b/all/x?y=%2F HTTP/1.1\r\n")
