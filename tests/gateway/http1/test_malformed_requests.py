"""What is no request: refused with the right status, closed, and not a byte of it forwarded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.fixtures.wire import Edge, Target

HOST = b"Host: a\r\n"
GET = b"GET / HTTP/1.1\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

REFUSED = {
    "HTTP/0.9": (b"GET /\r\n", 400),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\n" + HOST + b"\r\n", 505),
    "HTTP/1.10": (b"GET / HTTP/1.10\r\n" + HOST + b"\r\n", 400),
    "small letters": (b"GET / http/1.1\r\n" + HOST + b"\r\n", 400),
    "preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "TLS": (b"\x16\x03\x01\x00\xf0", 400),
    "two spaces": (b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "backslash": (b"GET /a\\b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "fragment": (b"GET /a#b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "no host": (GET + b"\r\n", 400),
    "two hosts": (GET + HOST + HOST + b"\r\n", 400),
    "empty host": (GET + b"Host:\r\n\r\n", 400),
    "host with a space": (GET + b"Host: a b\r\n\r\n", 400),
    "host with a comma": (GET + b"Host: a,b\r\n\r\n", 400),
    "host with a user": (GET + b"Host: u@a\r\n\r\n", 400),
    "host with a path": (GET + b"Host: a/b\r\n\r\n", 400),
    "host in brackets that is no IPv6 address": (GET + b"Host: [1.2.3.4]\r\n\r\n", 400),
    "IPv6 address with too many colons": (GET + b"Host: [:::::]\r\n\r\n", 400),
    "IPv6 address without its bracket": (GET + b"Host: [::1\r\n\r\n", 400),
    "port beyond": (GET + b"Host: a:65536\r\n\r\n", 400),
    "length and coding": (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "length twice": (POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400),
    "length as a list": (POST + b"Content-Length: 5, 5\r\n\r\nhello", 400),
    "length +5": (POST + b"Content-Length: +5\r\n\r\nhello", 400),
    "length -5": (POST + b"Content-Length: -5\r\n\r\nhello", 400),
    "length 0x5": (POST + b"Content-Length: 0x5\r\n\r\nhello", 400),
    "length empty": (POST + b"Content-Length:\r\n\r\n", 400),
    "length beyond": (POST + b"Content-Length: 99999999999999999999\r\n\r\n", 400),
    "space before colon": (POST + b"Content-Length : 5\r\n\r\nhello", 400),
    "unknown coding": (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    "coding of VT": (POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "coding twice": (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked not last": (POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
    "gzip, chunked": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "coding in HTTP/1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "folded": (GET + HOST + b"X: a\r\n b\r\n\r\n", 400),
    "first field folded": (GET + b" Host: a\r\n\r\n", 400),
    "lines end in LF": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "lone CR": (GET + HOST + b"X: a\rb\r\n\r\n", 400),
    "NUL": (GET + HOST + b"X: a\0b\r\n\r\n", 400),
    "no name": (GET + HOST + b": b\r\n\r\n", 400),
    "no colon": (GET + HOST + b"foo\r\n\r\n", 400),
    "name with a space": (GET + HOST + b"a b: c\r\n\r\n", 400),
    "* for GET": (b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "CONNECT": (b"CONNECT a:80 HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    "TRACE with a body": (b"TRACE / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\n\r\na", 400),
    "unknown expectation": (POST + b"Expect: foo\r\nContent-Length: 1\r\n\r\na", 417),
    "Max-Forwards x": (b"OPTIONS / HTTP/1.1\r\n" + HOST + b"Max-Forwards: x\r\n\r\n", 400),
    "head too large": (GET + HOST + b"X: " + b"a" * 40_000 + b"\r\n\r\n", 431),
    "target too long": (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
    "absolute with a user": (b"GET http://u@a/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "absolute of another scheme": (b"GET ftp://a/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
}
BAD_CHUNKS = {
    "size x": b"5x\r\nhello\r\n0\r\n\r\n",
    "size -5": b"-5\r\nhello\r\n0\r\n\r\n",
    "size +5": b"+5\r\nhello\r\n0\r\n\r\n",
    "size 0x5": b"0x5\r\nhello\r\n0\r\n\r\n",
    "size with a space": b"5 \r\nhello\r\n0\r\n\r\n",
    "size beyond": b"fffffffffffffffff\r\nhello",
    "size beyond what is signed": b"ffffffffffffffff\r\nhello",
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "LF after size": b"5\nhello\r\n0\r\n\r\n",
    "longer than its size": b"5\r\nhelloXX\r\n0\r\n\r\n",
    "LF in an extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "CR in an extension": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "extension without a name": b"5;=b\r\nhello\r\n0\r\n\r\n",
    "extension without a value": b"5;a=\r\nhello\r\n0\r\n\r\n",
    "line break between quotes": b'5;a="b\r\n"\r\nhello\r\n0\r\n\r\n',
    "length as a trailer": b"5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
    "coding as a trailer": b"5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "endless trailers": b"5\r\nhello\r\n0\r\n" + b"X: y\r\n" * 10_000,
    "bad trailer": b"5\r\nhello\r\n0\r\nX y: 1\r\n\r\n",
    "folded trailer": b"5\r\nhello\r\n0\r\nX: 1\r\n y\r\n\r\n",
    "LF at the end": b"5\r\nhello\r\n0\n\n",
    "endless extension": b"5;" + b"a" * 200_000 + b"\r\nhello\r\n0\r\n\r\n",
}


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    edge = Edge(Target())
    await edge.start()
    yield edge
    await edge.stop()


@pytest.mark.parametrize(("sent", "status"), REFUSED.values(), ids=REFUSED)
async def test_it_is_refused(edge: Edge, sent: bytes, status: int):
    back = await edge.ask(sent + GET + HOST + b"\r\n", 3.0)
    assert back.startswith(b"HTTP/1.1 %d " % status), back[:200]
    assert back.endswith(b"<end>")
    assert back.count(b"HTTP/1.1 %d" % status) == 1
    head = back.partition(b"\r\n\r\n")[0]
    assert b"Content-Type: application/problem+json" in head
    assert b"Connection: close" in head
    assert edge.target.heard == []


async def test_a_repeated_length_is_called_that(edge: Edge):
    back = await edge.ask(REFUSED["length twice"][0], 3.0)
    assert b'"detail":"A request has at most one Content-Length."' in back


@pytest.mark.parametrize("chunks", BAD_CHUNKS.values(), ids=BAD_CHUNKS)
async def test_a_body_that_is_not_chunked_well_is_refused(edge: Edge, chunks: bytes):
    back = await edge.ask(CHUNKED + chunks, 3.0)
    assert back.startswith(b"HTTP/1.1 400 "), back[:200]
    assert back.endswith(b"<end>")
    assert not edge.target.text.endswith(b"0\r\n\r\n"), "the upstream must not take it for whole"


async def test_the_same_byte_by_byte(edge: Edge):
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    for byte in b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb":
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    assert (await asyncio.wait_for(reader.read(), 3)).startswith(b"HTTP/1.1 400 ")
    writer.close()


ACCEPTED = {
    "plain": GET + HOST + b"\r\n",
    "empty line before": b"\r\n" + GET + HOST + b"\r\n",
    "HTTP/1.0 without host": b"GET / HTTP/1.0\r\n\r\n",
    "IPv6 host": GET + b"Host: [::1]:8080\r\n\r\n",
    "absolute": b"GET http://b.example/x HTTP/1.1\r\n" + HOST + b"\r\n",
    "OPTIONS *": b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    "chunked": CHUNKED + b"5;a=b\r\nhello\r\n0\r\nX: 1\r\n\r\n",
    "quoted extension": CHUNKED + b'5;a="b;c";d\r\nhello\r\n0\r\n\r\n',
    "chunk size with zeros": CHUNKED + b"0" * 40 + b"5\r\nhello\r\n000\r\n\r\n",
    "length with zeros": POST + b"Content-Length: 005\r\n\r\nhello",
    "empty value": GET + HOST + b"X:\r\n\r\n",
    "bytes beyond ASCII in a value": GET + HOST + b"X: \xe4\r\n\r\n",
    "upgrade not taken up": GET + HOST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
}


@pytest.mark.parametrize("sent", ACCEPTED.values(), ids=ACCEPTED)
async def test_what_is_valid_is_served(edge: Edge, sent: bytes):
    back = await edge.ask(sent)
    assert back.startswith(b"HTTP/1.1 200 OK\r\n"), back
    assert back.removesuffix(b"<end>").endswith(b"\r\n\r\nok")


async def test_requests_in_a_row_are_answered_in_order(edge: Edge):
    back = await edge.ask((GET + HOST + b"\r\n") * 20)
    assert back.count(b"HTTP/1.1 200 OK") == 20


async def test_what_follows_a_chunked_body_at_once_is_the_next_request(edge: Edge):
    back = await edge.ask(CHUNKED + b"5\r\nhello\r\n0\r\n\r\n" + GET + HOST + b"\r\n")
    assert back.count(b"HTTP/1.1 200 OK") == 2


async def test_what_follows_a_chunked_body_at_once_passes_the_gate(edge: Edge):
    back = await edge.ask(CHUNKED + b"5\r\nhello\r\n0\r\n\r\n" + GET + HOST + b"X: a\rb\r\n\r\n", 3.0)
    assert back.count(b"HTTP/1.1 200 OK") == 1
    assert back.count(b"HTTP/1.1 400 Bad Request") == 1
    assert back.endswith(b"<end>")
