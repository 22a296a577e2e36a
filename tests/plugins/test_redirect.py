from __future__ import annotations

from typing import Any

import pytest

from gateway.exchange import Request
from plugins.redirect import Redirect
from tests.fixtures.wire import Edge, Target
from tests.play import Played, Stage, ask

TO_HTTPS = "https://{host}{target}"


def request_of(scheme: str, host: str, target: str) -> Request:
    request = ask(target)
    request.scheme, request.host = scheme, host
    return request


async def go(stage: Stage, to: str, url: tuple[str, str, str], **options: Any) -> Played:
    return await stage.play(stage.make(Redirect, to=to, **options), request=request_of(*url))


@pytest.mark.parametrize(
    ("to", "target", "location"),
    [
        (TO_HTTPS, "/a%2Fb?c=d&e", "https://example.com/a%2Fb?c=d&e"),
        ("https://{host}:8443{target}", "/", "https://example.com:8443/"),
        ("https://www.example.org{path}", "/a?b", "https://www.example.org/a"),
        ("/v2{target}", "/books?x", "/v2/books?x"),
        ("{path}/", "/books", "/books/"),
        ("/gone", "/a", "/gone"),
        ("/docs#start", "/a", "/docs#start"),
    ],
)
async def test_it_leads_where_the_template_says(stage: Stage, to: str, target: str, location: str):
    played = await go(stage, to, ("http", "example.com:8080", target))
    assert (played.response.status, played.response.headers["location"]) == (307, location)
    assert played.seen_upstream is None
    assert played.body == b""


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_the_status_can_be_chosen(stage: Stage, status: int):
    played = await go(stage, "/x", ("http", "a", "/"), status=status)
    assert played.response.status == status


@pytest.mark.parametrize(
    ("to", "url"),
    [
        (TO_HTTPS, ("https", "example.com", "/a?b")),
        ("/new", ("http", "example.com", "/new")),
        ("https://a.example.com{target}", ("https", "a.example.com", "/x")),
    ],
)
async def test_who_is_there_already_is_not_sent_in_circles(stage: Stage, to: str, url: tuple[str, str, str]):
    played = await go(stage, to, url)
    assert played.response.status == 200
    assert played.seen_upstream is not None


@pytest.mark.parametrize("to", ["{path}/", "/{path}"])
async def test_a_path_of_two_slashes_leads_to_no_other_host(stage: Stage, to: str):
    played = await go(stage, to, ("http", "a", "//evil.example/x"))
    assert played.response.headers["location"].rstrip("/") == "/evil.example/x"


async def test_a_question_about_the_whole_server_is_not_sent_elsewhere(stage: Stage):
    assert (await go(stage, TO_HTTPS, ("http", "a", "*"))).seen_upstream is not None


async def test_without_a_host_there_is_no_address_to_go_to(stage: Stage):
    assert (await go(stage, TO_HTTPS, ("http", "", "/"))).response.status == 400


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"to": "{target}"}, "where the request is already"),
        ({"to": "{scheme}://{authority}{target}"}, "where the request is already"),
        ({"to": "//example.com/"}, "not an address to go to"),
        ({"to": "ftp://example.com/"}, "not an address to go to"),
        ({"to": "{header.referer}"}, "not an address to go to"),
        ({"to": "books"}, "not an address to go to"),
        ({"to": "/{nobody}"}, "unknown name"),
        ({"to": "/a b"}, "not a part of a URL"),
        ({"to": "/", "status": 303}, "Input should be 301, 302, 307 or 308"),
    ],
)
def test_what_leads_nowhere_is_refused(stage: Stage, options: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        stage.make(Redirect, **options)


async def test_on_the_wire(stage: Stage):
    edge = Edge(Target(), (stage.make(Redirect, to=TO_HTTPS, status=308),))
    await edge.start()
    answer = await edge.ask(b"HEAD /a?b HTTP/1.1\r\nHost: example.com:80\r\n\r\n")
    await edge.stop()
    assert answer.startswith(b"HTTP/1.1 308 Permanent Redirect\r\n")
    assert b"\r\nLocation: https://example.com/a?b\r\n" in answer
