"""Fetch: deadlines, limits and verification hold against servers that do as they like."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gateway.fetch import Fetch, FetchFailed

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: \xe9\r\n\r\nok"


@pytest.fixture
async def fetch() -> AsyncIterator[Fetch]:
    fetch = Fetch()
    yield fetch
    await fetch.close()
    await fetch.close()


class Server:
    """Answers every head with `answer` and goes on as long as the client does."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.heard: list[bytes] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                self.heard.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(self.answer)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            writer.close()


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., object]]:
    started = []

    async def start(answer: bytes, context: ssl.SSLContext | None = None) -> tuple[Server, str]:
        server = Server(answer)
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context)
        started.append(listening)
        return server, f"http{'s' if context else ''}://127.0.0.1:{listening.sockets[0].getsockname()[1]}"

    yield start
    for listening in started:
        listening.close()
    await asyncio.sleep(0.02)


async def test_an_answer_comes_whole_over_a_connection_of_its_own(fetch: Fetch, serve):
    server, url = await serve(OK)
    for _ in range(3):
        fetched = await fetch.get(url + "/keys", within=2.0, limit=2, fields={"host": "issuer.example"})
        assert (fetched.status, fetched.headers.get("x-a"), fetched.body) == (200, "é", b"ok")
    assert server.connections == 3
    head = server.heard[0].lower()
    assert head.startswith(b"get /keys http/1.1\r\n")
    assert head.count(b"\r\nhost:") == 1
    for field in (b"host: issuer.example", b"accept-encoding: identity", b"connection: close"):
        assert b"\r\n" + field + b"\r\n" in head


async def test_a_status_is_known_before_the_body_is_there(fetch: Fetch, serve):
    _, url = await serve(b"HTTP/1.1 503 No\r\nContent-Length: 9999999\r\n\r\nendless")
    assert await fetch.status(url, within=2.0) == 503


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 100,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"40\r\n" + b"x" * 64 + b"\r\n0\r\n\r\n",
    ],
    ids=["declared", "chunked"],
)
async def test_a_body_has_a_limit(fetch: Fetch, serve, answer: bytes):
    _, url = await serve(answer)
    with pytest.raises(FetchFailed, match="more than 63 bytes"):
        await fetch.get(url, within=2.0, limit=63)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"], ids=["silent", "stuck"])
async def test_an_answer_has_a_deadline(fetch: Fetch, serve, answer: bytes):
    _, url = await serve(answer)
    began = asyncio.get_running_loop().time()
    with pytest.raises(FetchFailed, match=r"no answer within 0\.1 s"):
        await fetch.get(url, within=0.1, limit=100)
    assert asyncio.get_running_loop().time() - began < 1.0


@pytest.mark.parametrize("answer", [b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nBad Field: 1\r\n\r\n"])
async def test_what_is_no_answer_is_one_kind_of_error(fetch: Fetch, serve, answer: bytes):
    _, url = await serve(answer)
    with pytest.raises(FetchFailed):
        await fetch.get(url, within=1.0, limit=100)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://", "ftp://127.0.0.1/", "nonsense"])
async def test_what_cannot_be_asked_is_the_same_kind(fetch: Fetch, url: str):
    with pytest.raises(FetchFailed):
        await fetch.status(url, within=1.0)


async def test_nobody_who_answers_is_said_in_plain_words(fetch: Fetch):
    with pytest.raises(FetchFailed, match=r"^connection refused$"):
        await fetch.status("http://127.0.0.1:1/", within=1.0)


async def test_redirects_and_cookies_are_not_followed(fetch: Fetch, serve):
    server, url = await serve(
        b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nSet-Cookie: a=1\r\nContent-Length: 0\r\n\r\n"
    )
    assert (await fetch.get(url, within=1.0, limit=10)).status == 302
    assert (await fetch.get(url, within=1.0, limit=10)).status == 302
    assert len(server.heard) == 2
    assert b"cookie" not in server.heard[1].lower()


async def test_the_environment_s_proxy_is_not_used(fetch: Fetch, serve, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    _, url = await serve(OK)
    assert await fetch.status(url, within=1.0) == 200


@pytest.fixture
def self_signed(tmp_path: Path) -> ssl.SSLContext:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    made += ["-keyout", str(key), "-out", str(certificate), "-days", "1", "-subj", "/CN=localhost"]
    subprocess.run([*made, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


async def test_a_certificate_nobody_vouches_for_is_refused(fetch: Fetch, serve, self_signed: ssl.SSLContext):
    server, url = await serve(OK, self_signed)
    with pytest.raises(FetchFailed, match="certificate"):
        await fetch.get(url, within=2.0, limit=10)
    assert server.heard == []
