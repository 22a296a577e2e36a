"""The connections of the API: what is no HTTP is a problem too, and there are so many and no more."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import urlsplit

import pytest

from gateway.control import listening
from tests.fixtures.control import Client

ASKING = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"


async def connected(client: Client) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(client.url)
    return await asyncio.open_connection(parts.hostname, parts.port)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"POST /v1/roles HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_a_problem(client: Client, sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    reader, writer = await connected(client)
    writer.write(sent)
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
    fields = {line.split(b":")[0].lower(): line.split(b": ")[1] for line in head.split(b"\r\n")[1:]}
    assert fields[b"content-type"] == b"application/problem+json"
    assert fields[b"server"] == b"tallygate"
    document = json.loads(body)
    assert (document["status"], document["title"]) == (400, "The request is not valid HTTP")
    assert document["instance"].startswith("urn:uuid:")
    assert not caplog.records, "a flood of it would fill the log"


async def test_one_connection_too_many_is_closed(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "MOST_CONNECTIONS", 3)
    held = [await connected(client) for _ in range(3)]
    await asyncio.sleep(0.1)
    reader, writer = await connected(client)
    writer.write(ASKING)
    async with asyncio.timeout(5):
        assert await closed(reader)
    writer.close()
    held[0][1].close()
    await asyncio.sleep(0.1)
    reader, writer = await connected(client)
    writer.write(ASKING)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    for _, each in (*held, (reader, writer)):
        each.close()


async def closed(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True
