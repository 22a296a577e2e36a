from __future__ import annotations

from typing import Any

import pytest

from gateway.clock import uuid_text
from gateway.exchange import Exchange, Response
from gateway.headers import Fields, Headers
from gateway.plugin import Plugin, PluginConfig
from plugins.key_auth import KeyAuth
from plugins.set_headers import SetHeaders
from tests.play import KEY, Played, Stage, ask


class Routed(Plugin[PluginConfig]):
    """Stands in for the router."""

    def on_request(self, exchange: Exchange) -> None:
        exchange.parameters = {"id": "7\r\nX-Evil: 1"}


async def edit(stage: Stage, answer: Response | None = None, *, key: str = KEY, **edits: Any) -> Played:
    request = ask("/books", x_old="1", x_api_key=key)
    request.client, request.host = "192.0.2.7", "api.example.com"
    plugins = [stage.make(KeyAuth)] if key else []
    return await stage.play(
        *plugins, stage.make(Routed), stage.make(SetHeaders, **edits), request=request, answer=answer
    )


async def test_the_request_is_changed_before_it_goes_upstream(stage: Stage):
    edits = {"remove": ["X-Old"], "set": {"X-New": "a"}, "add": {"x-more": "b"}}
    played = await edit(stage, request=edits, key="")
    assert played.seen_upstream is not None
    assert dict(played.seen_upstream.headers.items()) == {"x-api-key": "", "X-New": "a", "x-more": "b"}


async def test_the_response_is_changed_on_its_way_back(stage: Stage):
    answer = Response(200, Headers([("Server", "x"), ("Via", "1"), ("Link", "</a>"), ("Server", "y")]))
    edits = {"remove": ["server"], "set": {"Via": "2"}, "add": {"Link": "</b>"}}
    played = await edit(stage, answer, response=edits)
    assert list(played.response.headers.items()) == [("Via", "2"), ("Link", "</a>"), ("Link", "</b>")]


async def test_values_are_templates(stage: Stage):
    texts = {"X-Who": "{consumer}@{organization}", "X-What": "{method} {path}", "X-From": "{client}"}
    texts["X-Id"] = "{request.id}"
    played = await edit(stage, request={"set": texts}, response={"set": {"X-Route": "{route} on {host}"}})
    assert played.seen_upstream is not None
    fields = played.seen_upstream.headers
    said = [fields[name] for name in texts]
    assert said == ["bob@acme", "GET /books", "192.0.2.7", uuid_text(played.exchange.id)]
    assert played.response.headers["x-route"] == "r on api.example.com"


async def test_a_value_that_comes_out_empty_is_not_sent_and_yet_replaces_what_was_claimed(stage: Stage):
    edits = {"set": {"X-Old": "{consumer}"}, "add": {"X-More": "{header.none}"}}
    played = await edit(stage, request=edits, key="")
    assert played.seen_upstream is not None
    assert "x-old" not in played.seen_upstream.headers
    assert "x-more" not in played.seen_upstream.headers


async def test_no_value_breaks_a_line(stage: Stage):
    played = await edit(stage, request={"set": {"X-Id": "{param.id}"}})
    assert played.seen_upstream is not None
    assert played.seen_upstream.headers["x-id"] == "7%0D%0AX-Evil: 1"


async def test_fields_that_repeat_are_changed_once_for_all(stage: Stage):
    plugin = stage.make(SetHeaders, response={"set": {"X-A": "1"}, "add": {"X-B": "{client}"}})
    fields = Fields([("server", b"Server: x")])
    for client in ("192.0.2.1", "192.0.2.2"):
        request = ask()
        request.client = client
        played = await stage.play(plugin, request=request, answer=Response(200, Headers(fields)))
        assert list(played.response.headers.items()) == [("Server", "x"), ("X-A", "1"), ("X-B", client)]
    assert len(fields.made) == 1
    assert fields.lines == [("server", b"Server: x")]


@pytest.mark.parametrize(
    ("options", "hooks"),
    [
        ({}, []),
        ({"request": {"remove": ["a"]}}, ["on_request"]),
        ({"response": {"add": {"a": "b"}}}, ["on_response"]),
    ],
)
def test_ways_without_changes_cost_nothing(stage: Stage, options: dict[str, Any], hooks: list[str]):
    assert SetHeaders.hooks(stage.make(SetHeaders, **options).config) == hooks


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"request": {"set": {"Host": "a"}}}, "the gateway sets it"),
        ({"request": {"remove": ["X-Tallygate-Consumer"]}}, "the gateway sets it"),
        ({"request": {"add": {"X-Forwarded-For": "{client}"}}}, "the gateway sets it"),
        ({"response": {"set": {"Transfer-Encoding": "gzip"}}}, "the gateway sets it"),
        ({"response": {"remove": ["Content-Length"]}}, "the gateway sets it"),
        ({"response": {"set": {"A": "1"}, "remove": ["a"]}}, "a is named twice"),
        ({"response": {"set": {"A": "{nobody}"}}}, "unknown name {nobody}"),
        ({"response": {"set": {"A": "1\r\nB: 2"}}}, "no header field can hold"),
    ],
)
def test_what_cannot_be_set_is_refused(stage: Stage, options: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        stage.make(SetHeaders, **options)
