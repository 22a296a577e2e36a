from __future__ import annotations

import gzip
import json
import sys
import zlib
from typing import Any

import brotli
import pytest
from backports import zstd

from gateway.body import Body
from gateway.coding import decoded
from gateway.exchange import Exchange, Response
from gateway.headers import Headers
from gateway.plugin import Plugin, PluginConfig
from gateway.problem import Overloaded
from plugins.compress import Compress
from plugins.key_auth import KeyAuth
from plugins.metering import Metering
from tests.fixtures.wire import Edge, Target
from tests.play import KEY, Played, Stage, ask

TEXT = b"It was a dark and stormy night; the rain fell in torrents. " * 40
ALL = ["zstd", "br", "gzip"]


def page(body: bytes | Body = TEXT, status: int = 200, **fields: str) -> Response:
    headers = Headers({name.replace("_", "-"): value for name, value in fields.items()})
    if "content-type" not in headers:
        headers["Content-Type"] = "text/html; charset=utf-8"
    return Response(status, headers, body)


async def get(
    stage: Stage, accept: str | None = "gzip", answer: Response | None = None, method: str = "GET", **options: Any
) -> Played:
    request = ask("/", method)
    if accept is not None:
        request.headers["Accept-Encoding"] = accept
    return await stage.play(stage.make(Compress, **options), request=request, answer=answer or page())


@pytest.mark.parametrize(
    ("coding", "read"), [("gzip", gzip.decompress), ("br", brotli.decompress), ("zstd", zstd.decompress)]
)
async def test_a_client_gets_the_coding_it_takes(stage: Stage, coding: str, read: Any):
    answer = page(content_length=str(len(TEXT)), accept_ranges="bytes", etag='"v1"', vary="Cookie")
    played = await get(stage, coding, answer, encodings=ALL)
    assert read(played.body) == TEXT
    assert len(played.body) < len(TEXT) / 4
    assert {name.lower(): value for name, value in played.response.headers.items()} == {
        "content-type": "text/html; charset=utf-8",
        "etag": 'W/"v1"',
        "vary": "Cookie, Accept-Encoding",
        "content-encoding": coding,
    }


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        (None, None),
        ("", None),
        ("gzip", "gzip"),
        ("GZIP", "gzip"),
        ("gzip, br, zstd", "zstd"),
        ("gzip;q=1.0, br;q=0.9", "gzip"),
        ("gzip;q=0.5, br;q=0.501", "br"),
        ("gzip ; Q=0.2 ,br;q=0", "gzip"),
        ("*", "zstd"),
        ("*, zstd;q=0", "br"),
        ("*;q=0", None),
        ("gzip;q=0", None),
        ("gzip;q=0.000", None),
        ("identity, gzip;q=0.5", None),
        ("identity;q=0.5, gzip;q=0.5", "gzip"),
        ("identity;q=0, *;q=0.1", "zstd"),
        ("deflate, compress", None),
        ("gzip;q=2", None),
        ("gzip;q=", None),
        ("gzip;level=9", None),
        ("g\xfczip", None),
    ],
)
async def test_the_coding_is_negotiated(stage: Stage, accept: str | None, coding: str | None):
    played = await get(stage, accept, encodings=ALL)
    assert played.response.headers.get("content-encoding") == coding
    assert played.response.headers["vary"] == "Accept-Encoding", "caches must know, whatever this client takes"
    assert decoded(coding or "identity", played.body, 10_000) == TEXT


async def test_who_takes_nothing_uncompressed_gets_even_little_compressed(stage: Stage):
    for accept, coding in (("gzip", None), ("gzip, identity;q=0", "gzip"), ("gzip, *;q=0", "gzip")):
        played = await get(stage, accept, page(b"x"))
        assert played.response.headers.get("content-encoding") == coding


@pytest.mark.parametrize(
    "answer",
    [
        lambda: page(content_type="image/png"),
        lambda: page(content_type="text/event-stream"),
        lambda: page(content_type="Text/Event-Stream; charset=utf-8"),
        lambda: page(content_type=""),
        lambda: page(content_encoding="br"),
        lambda: page(content_encoding="identity"),
        lambda: page(content_range="bytes 0-1/2"),
        lambda: page(content_digest="sha-256=:x:"),
        lambda: page(cache_control="public, No-Transform"),
        lambda: page(status=206),
        lambda: page(b"", status=204),
        lambda: page(b"", status=304),
    ],
)
async def test_what_is_not_to_be_compressed_stays_as_it_is(stage: Stage, answer: Any):
    untouched, made = answer(), answer()
    played = await get(stage, "gzip", made)
    assert played.body == untouched.body
    assert list(played.response.headers.items()) == list(untouched.headers.items())


async def test_a_client_can_forbid_it(stage: Stage):
    request = ask(accept_encoding="gzip", cache_control="no-transform")
    played = await stage.play(stage.make(Compress), request=request, answer=page())
    assert played.body == TEXT


@pytest.mark.parametrize(("size", "compressed"), [(1023, False), (1024, True)])
@pytest.mark.parametrize("declared", [True, False])
async def test_small_bodies_are_not_worth_it(stage: Stage, size: int, compressed: bool, declared: bool):
    body = b"x" * size
    answer = page(body, content_length=str(size)) if declared else page(body)
    assert ("content-encoding" in (await get(stage, "gzip", answer)).response.headers) is compressed


@pytest.mark.parametrize(
    ("media_type", "compressed"),
    [
        ("application/json", True),
        ("application/problem+json", True),
        ("application/vnd.api+json; v=1", True),
        ("TEXT/plain", True),
        ("image/svg+xml", True),
        ("application/octet-stream", False),
        ("application/jsonx", False),
        ("video/mp4", False),
    ],
)
async def test_types_that_are_worth_it(stage: Stage, media_type: str, compressed: bool):
    played = await get(stage, "gzip", page(content_type=media_type))
    assert ("content-encoding" in played.response.headers) is compressed


@pytest.mark.parametrize("etag", ['W/"v1"', '"v1"'])
async def test_validators_are_weak_and_stay_so(stage: Stage, etag: str):
    assert (await get(stage, "gzip", page(etag=etag))).response.headers["etag"] == 'W/"v1"'


@pytest.mark.parametrize(("held", "told"), [('W/"v1"', 'W/"v1"'), ('"v1"', '"v1"'), ('"v0", W/"v1"', 'W/"v1"')])
async def test_a_revalidation_is_answered_with_the_validator_the_client_holds(stage: Stage, held: str, told: str):
    request = ask(accept_encoding="gzip", if_none_match=held)
    answer = Response(304, {"ETag": '"v1"'})
    played = await stage.play(stage.make(Compress), request=request, answer=answer)
    assert played.response.headers["etag"] == told
    assert played.response.headers.get("vary") == ("Accept-Encoding" if told != '"v1"' else None)


async def test_head_says_what_get_would_say(stage: Stage):
    size = str(len(TEXT))
    head = await get(stage, "gzip", page(b"", content_length=size, etag='"v1"'), method="HEAD")
    full = await get(stage, "gzip", page(content_length=size, etag='"v1"'))
    assert list(head.response.headers.items()) == list(full.response.headers.items())
    assert head.body == b""


@pytest.mark.parametrize("coding", ALL)
async def test_each_piece_can_be_read_when_it_is_sent(stage: Stage, coding: str):
    plugin = stage.make(Compress, encodings=ALL)
    exchange = Exchange(ask(accept_encoding=coding), stage.clock)
    response = exchange.response = page(Body())
    plugin.on_response(exchange, response)
    readers = {"gzip": zlib.decompressobj(31).decompress, "zstd": zstd.ZstdDecompressor().decompress}
    read = readers.get(coding) or brotli.Decompressor().process
    for piece in (b"one", b"two" * 1000, b"three"):
        assert read(plugin.on_chunk(exchange, piece, False)) == piece
        assert plugin.on_chunk(exchange, b"", False) == b"", "nothing new is nothing to send"
    assert read(plugin.on_chunk(exchange, b"", True)) == b""
    plugin.on_finish(exchange)


async def test_only_so_many_bodies_are_compressed_while_they_arrive(stage: Stage):
    plugin = stage.make(Compress, max_streams=1)
    other = stage.make(Compress, max_streams=1)
    assert isinstance(plugin, Compress)
    exchanges = [Exchange(ask(accept_encoding="gzip"), stage.clock) for _ in range(3)]
    for place, exchange in enumerate(exchanges):
        exchange.response = page(Body())
        (plugin if place < 2 else other).on_response(exchange, exchange.response)
    assert ["content-encoding" in exchange.response.headers for exchange in exchanges] == [True, False, False]  # type: ignore[union-attr]
    assert (plugin._streams.value, plugin._refused.value) == (1, 2)
    for exchange in exchanges:
        plugin.on_finish(exchange)
    assert plugin._streams.value == 0


class Refusing(Plugin[PluginConfig]):
    """Stands before compress and thinks better of it."""

    def on_response(self, exchange: Exchange, response: Response) -> Response | None:
        raise Overloaded("x" * 5000)


async def test_what_takes_the_place_of_the_answer_is_not_encoded(stage: Stage):
    request = ask(accept_encoding="gzip")
    played = await stage.play(stage.make(Refusing), stage.make(Compress), request=request, answer=page())
    assert "content-encoding" not in played.response.headers
    assert json.loads(played.body)["status"] == 503


@pytest.mark.parametrize("order", ["compress first", "metering first"])
@pytest.mark.parametrize("coding", ALL)
async def test_usage_is_what_was_sent_and_what_the_answer_said(stage: Stage, order: str, coding: str):
    tokens = {"name": "tokens", "from": "response_json", "path": "usage.total_tokens"}
    plugins = [stage.make(Compress, encodings=ALL), stage.make(Metering, meters=["bytes_out", tokens])]
    document = json.dumps({"usage": {"total_tokens": 42}, "text": TEXT.decode()}).encode()
    played = await stage.play(
        stage.make(KeyAuth),
        *(plugins if order == "compress first" else plugins[::-1]),
        request=ask(x_api_key=KEY, accept_encoding=coding),
        answer=page(document, content_type="application/json"),
        pieces=[document[:1000], document[1000:]],
    )
    (event,) = stage.events()
    assert event.quantities == {"bytes_out": len(played.body), "tokens": 42}
    assert len(played.body) < len(document)
    assert played.exchange.bytes_out == len(played.body)


def test_a_coding_whose_library_is_missing_is_refused(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "brotli", None)
    with pytest.raises(ValueError, match=r"br needs a library that is not installed \(pip install"):
        stage.make(Compress, encodings=["gzip", "br"])


@pytest.mark.parametrize("options", [{"encodings": []}, {"encodings": ["deflate"]}, {"types": ["text"]}])
def test_options_that_make_no_sense_are_refused(stage: Stage, options: dict[str, Any]):
    with pytest.raises(ValueError, match=r"encodings|types"):
        stage.make(Compress, **options)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
ASK = b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n"


async def test_on_the_wire_a_stream_keeps_flowing(stage: Stage):
    """What the upstream sent so far can be read although it has not ended."""
    target = Target([HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"5\r\nfirst\r\n"])
    edge = Edge(target, (stage.make(Compress),))
    await edge.start()
    answer = await edge.ask(ASK)
    await edge.stop()
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert b"\r\nContent-Encoding: gzip" in head
    assert b"\r\nTransfer-Encoding: chunked" in head
    size, _, piece = rest.partition(b"\r\n")
    assert zlib.decompressobj(31).decompress(piece[: int(size, 16)]) == b"first"


def dechunked(body: bytes) -> bytes:
    pieces = []
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        pieces.append(body[:length])
        body = body[length + 2 :]
    return b"".join(pieces)


async def test_on_the_wire_usage_is_what_left(stage: Stage):
    text = TEXT * 1000
    target = Target([HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(text), text)])
    edge = Edge(target, (stage.make(Compress), stage.make(KeyAuth), stage.make(Metering, meters=["bytes_out"])))
    await edge.start()
    answer = await edge.ask(ASK[:-2] + b"X-Api-Key: %b\r\n\r\n" % KEY.encode())
    await edge.stop()
    sent = dechunked(answer.partition(b"\r\n\r\n")[2])
    assert gzip.decompress(sent) == text
    (event,) = stage.events()
    assert event.quantities == {"bytes_out": len(sent)}


async def test_on_the_wire_a_whole_answer_has_its_new_length(stage: Stage):
    edge = Edge(Target([HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(TEXT), TEXT)]), (stage.make(Compress),))
    await edge.start()
    head, _, body = (await edge.ask(ASK)).partition(b"\r\n\r\n")
    await edge.stop()
    assert gzip.decompress(body) == TEXT
    assert head.lower().count(b"content-length:") == 1
    assert b"\r\nContent-Length: %d" % len(body) in head


class Broken(Plugin[PluginConfig]):
    """An answer whose body fails before a byte of it is there."""

    def on_request(self, exchange: Exchange) -> Response:
        body = Body()
        body.fail(ConnectionResetError())
        return page(body)


async def test_on_the_wire_the_problem_in_the_place_of_a_body_is_not_encoded(stage: Stage):
    edge = Edge(Target(), (stage.make(Compress), stage.make(Broken)))
    await edge.start()
    head, _, body = (await edge.ask(ASK)).partition(b"\r\n\r\n")
    await edge.stop()
    assert head.startswith(b"HTTP/1.1 502 ")
    assert b"Content-Encoding" not in head
    assert json.loads(body.removesuffix(b"<end>"))["status"] == 502
