"""Signed requests on real sockets: whatever could be read in two ways must be signed as it came."""

from __future__ import annotations

import time
from typing import Any

import pytest

from plugins.hmac_auth import HmacAuth
from tests.fixtures.conversation import serving
from tests.fixtures.signer import digest_of, request_of, signed, stage
from tests.fixtures.valkey import valkey, valkey_process
from tests.fixtures.wire import Target
from tests.play import Stage

__all__ = ["stage", "valkey", "valkey_process"]

BODY = b'{"n":1}'
COVERED = ("@method", "@target-uri", "content-digest")
CHUNKED = b'3\r\n{"n\r\n4\r\n":1}\r\n0\r\n\r\n'


def head(method: str, target: str, fields: Any, *lines: str, host: str = "a.example") -> bytes:
    named = [f"{name}: {value}" for name, value in fields.items()]
    first = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close"]
    return "\r\n".join([*first, *named, *lines, "", ""]).encode("latin-1")


async def sent(stage: Stage, text: bytes, **options: Any) -> tuple[int, bytes]:
    target = Target()
    async with serving(target, stage.make(HmacAuth, nonce=False, **options)) as edge:
        back = await edge.ask(text)
    return int(back.split(b" ")[1]), target.text


def signed_get(target: str, **how: Any) -> Any:
    return signed(request_of("GET", target), time.time(), **how).headers


@pytest.mark.parametrize(
    ("was_signed", "comes", "status"),
    [
        ("/o?a=1&b=2", "/o?a=1&b=2", 200),
        ("/o?a=1&b=2", "/o?b=2&a=1", 401),
        ("/o?a=1", "/o?a=1&", 401),
        ("/o?a=1", "/o?a=%31", 401),
        ("/o", "/o/", 401),
        ("/o", "/o?", 401),
        ("/o", "//o", 401),
        ("/o", "/./o", 401),
        ("/o", "/a/../o", 401),
        ("/o", "/%6f", 401),
        ("/o", "/O", 401),
        ("/o%2Fx", "/o%2fx", 401),
        ("/o", "http://a.example/o", 200),
        ("/o", "http://b.example/o", 401),
        ("/o", "http://a.example:81/o", 401),
    ],
)
async def test_a_target_counts_byte_by_byte(stage: Stage, was_signed: str, comes: str, status: int):
    found, heard = await sent(stage, head("GET", comes, signed_get(was_signed)))
    assert (found, bool(heard)) == (status, status == 200)


@pytest.mark.parametrize("host", ["A.Example", "a.example:80", "b.example", "a.example.", "a.example:443"])
async def test_a_host_is_the_same_in_any_case_and_with_its_own_port(stage: Stage, host: str):
    found, _ = await sent(stage, head("GET", "/o", signed_get("/o"), host=host))
    assert found == (200 if host.lower().removesuffix(":80") == "a.example" else 401)


async def test_a_path_without_query_is_not_signed_for_one_with_an_empty_query(stage: Stage):
    bare = signed_get("/o", covered=("@method", "@authority", "@path"))
    assert (await sent(stage, head("GET", "/o", bare)))[0] == 200
    assert (await sent(stage, head("GET", "/o?", bare)))[0] == 401


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["X-A: 1", "X-A: 2"], 200),
        (["X-A: 1, 2"], 200),  # as RFC 9421 §2.1 has it
        (["X-A: 2", "X-A: 1"], 401),
        (["X-A: 1"], 401),
        (["X-A: 1,2"], 401),
        (["X-A: 1", "X-A: 2", "X-A: 2"], 401),
        ([], 401),
    ],
)
async def test_a_field_that_is_signed_counts_with_all_of_its_lines(stage: Stage, lines: list[str], status: int):
    request = request_of("GET", "/o", x_a="1, 2")
    fields = signed(request, time.time(), covered=("@method", "@target-uri", "x-a")).headers
    del fields["x-a"]
    assert (await sent(stage, head("GET", "/o", fields, *lines)))[0] == status


def signed_post(body: bytes) -> Any:
    request = request_of("POST", "/o", body, content_digest=digest_of(body))
    return signed(request, time.time(), covered=COVERED).headers


async def test_a_body_in_chunks_is_read_whole_before_any_of_it_goes_on(stage: Stage):
    chunked = head("POST", "/o", signed_post(BODY), "Transfer-Encoding: chunked")
    status, heard = await sent(stage, chunked + CHUNKED)
    assert status == 200
    assert b'{"n":1}' in heard
    assert await sent(stage, chunked + CHUNKED.replace(b"1}", b"2}")) == (401, b"")
    unsigned = head("POST", "/o", signed(request_of("POST", "/o"), time.time()).headers, "Transfer-Encoding: chunked")
    assert await sent(stage, unsigned + CHUNKED) == (401, b"")
    assert await sent(stage, unsigned + b"0\r\n\r\n") == (401, b"")


async def test_a_body_that_grows_too_large_is_refused_as_soon_as_it_is(stage: Stage):
    large = b"x" * 3000
    fields = signed_post(large)
    long = head("POST", "/o", fields, "Content-Length: 3000")
    assert await sent(stage, long, max_body="1KiB") == (413, b"")  # before any of it has come
    endless = head("POST", "/o", fields, "Transfer-Encoding: chunked") + b"bb8\r\n" + large
    assert await sent(stage, endless, max_body="1KiB") == (413, b"")


@pytest.mark.parametrize(("later", "status"), [(-61.5, 401), (-58, 200), (4, 200), (7, 401)])
async def test_the_window_has_sharp_edges(stage: Stage, later: float, status: int):
    fields = signed(request_of("GET", "/o"), time.time() + later).headers
    assert (await sent(stage, head("GET", "/o", fields)))[0] == status
