from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.reply import LARGEST_FILE
from plugins.reply import Reply
from tests.fixtures.wire import Edge, Target
from tests.play import Stage


@pytest.mark.parametrize(
    ("options", "media_type", "body"),
    [
        ({"body": "grüß dich\n"}, "text/plain; charset=utf-8", "grüß dich\n".encode()),
        ({"body": "<p>", "headers": {"content-type": "text/html"}}, "text/html", b"<p>"),
        ({"json": {"a": [1, None, True]}}, "application/json", b'{"a":[1,null,true]}'),
        ({"json": False}, "application/json", b"false"),
        ({"body": ""}, None, b""),
        ({}, None, b""),
    ],
)
async def test_the_answer_is_what_is_configured(
    stage: Stage, options: dict[str, Any], media_type: str | None, body: bytes
):
    played = await stage.play(stage.make(Reply, status=299, **options))
    assert (played.response.status, played.body) == (299, body)
    assert played.response.headers.get("content-type") == media_type
    assert played.seen_upstream is None


async def test_a_file_is_the_body(stage: Stage, tmp_path: Path):
    page = tmp_path / "page.html"
    page.write_bytes(b"<p>\xff")
    played = await stage.play(stage.make(Reply, body_file=str(page)))
    assert (played.response.headers["content-type"], played.body) == ("text/html", b"<p>\xff")


async def test_one_answer_does_not_change_the_next(stage: Stage):
    plugin = stage.make(Reply, body="x", headers={"X-A": "1"})
    first = await stage.play(plugin)
    first.response.headers["X-A"] = "changed"
    assert (await stage.play(plugin)).response.headers["x-a"] == "1"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"body": "a", "json": 1}, "takes one of"),
        ({"status": 204, "body": "a"}, "has no body"),
        ({"status": 101}, "greater than or equal to 200"),
        ({"body_file": "nowhere.html"}, "cannot be read"),
        ({"headers": {"Content-Length": "1"}}, "the gateway sets it"),
        ({"headers": {"X A": "1"}}, "not the name of a header field"),
        ({"headers": {"X-A": "1\r\nX-B: 2"}}, "not the value of a header field"),
    ],
)
def test_what_is_no_answer_is_refused(stage: Stage, options: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        stage.make(Reply, **options)


def test_a_file_that_is_too_large_is_refused(stage: Stage, tmp_path: Path):
    (tmp_path / "large").write_bytes(b"x" * (LARGEST_FILE + 1))
    with pytest.raises(ValueError, match="larger than 1MiB"):
        stage.make(Reply, body_file=str(tmp_path / "large"))


async def test_on_the_wire_head_says_what_get_says(stage: Stage):
    edge = Edge(Target(), (stage.make(Reply, status=503, headers={"Retry-After": "60"}, body="later\n"),))
    await edge.start()
    get, head = [await edge.ask(b"%b / HTTP/1.1\r\nHost: a\r\n\r\n" % method, wait=0.1) for method in (b"GET", b"HEAD")]
    await edge.stop()
    assert get.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert get.endswith(b"\r\n\r\nlater\n")
    for answer in (get, head):
        assert b"\r\nRetry-After: 60\r\n" in answer
        assert answer.count(b"\r\nContent-Length: 6\r\n") == 1
    assert head.endswith(b"\r\n\r\n")
