"""The demo upstream: each endpoint gives the kind of answer it is there for."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys

import pytest
from aiohttp.test_utils import TestClient, TestServer

from demo.upstream import application


@pytest.fixture
async def client():
    async with TestClient(TestServer(application())) as client:
        yield client


async def test_the_index_lists_every_endpoint(client):
    text = await (await client.get("/")).text()
    for path in ("/json", "/slow", "/events", "/stream", "/echo", "/status/", "/bytes", "/upload", "/ai/chat"):
        assert path in text


async def test_events_are_server_sent_events(client):
    answer = await client.get("/events?count=2&interval=0")
    assert answer.headers["content-type"] == "text/event-stream"
    assert (await answer.text()).count("event: tick\n") == 2


async def test_stream_is_chunked(client):
    answer = await client.get("/stream?count=3&interval=0")
    assert answer.headers["transfer-encoding"] == "chunked"
    assert (await answer.text()).split("\n") == ["line 0", "line 1", "line 2", ""]


async def test_echo_says_what_arrived(client):
    answer = await client.post("/echo/a%2Fb?c=d", data=b"hello", headers={"X-Mixed-Case": "kept"})
    said = await answer.json()
    assert (said["method"], said["path"], said["body"]) == ("POST", "/echo/a%2Fb?c=d", "hello")
    assert ["X-Mixed-Case", "kept"] in said["headers"]


@pytest.mark.parametrize("status", [200, 204, 304, 404, 503])
async def test_status_is_the_one_asked_for(client, status):
    assert (await client.get(f"/status/{status}")).status == status


async def test_bytes_are_as_many_as_asked_for(client):
    answer = await client.get("/bytes?size=200001")
    assert answer.headers["content-length"] == "200001"
    assert len(await answer.read()) == 200_001


async def test_upload_counts_and_hashes(client):
    body = b"tally" * 100_000
    answer = await client.put("/upload", data=body)
    assert await answer.json() == {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}


async def test_chat_says_its_usage_in_body_and_header(client):
    answer = await client.post("/ai/chat", data=b"three small words")
    usage = json.loads(await answer.read())["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 3
    assert answer.headers["x-units"] == str(usage["total_tokens"])


@pytest.mark.parametrize(
    "path", ["/slow?seconds=61", "/slow?seconds=nan", "/slow?seconds=x", "/bytes?size=-1", "/events?interval=1e9"]
)
async def test_out_of_bounds_is_refused(client, path):
    assert (await client.get(path)).status == 400


async def test_a_port_that_is_taken_is_said_in_one_line(client):
    port = str(client.server.port)
    demo = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "demo", "--port", port, stderr=asyncio.subprocess.PIPE
    )
    _, said = await asyncio.wait_for(demo.communicate(), 30)
    assert demo.returncode == 1
    assert said.count(b"\n") == 1
    assert b"address already in use" in said
