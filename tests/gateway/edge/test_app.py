"""An edge process, put together: what its parts share."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from types import SimpleNamespace

from gateway.edge.edge import Edge
from tests.fixtures.configuration import loaded
from tests.fixtures.conversation import calling
from tests.fixtures.lasting import lasting_in
from tests.fixtures.wire import OK, Target

CONFIG = """
listeners: [{{bind: 127.0.0.1:0}}]
upstreams:
  books: {{targets: ["http://127.0.0.1:{books}"]}}
  collector: {{targets: ["http://127.0.0.1:{collector}"]}}
plugins:
  - trace: {{export: {{upstream: collector, interval: 1h}}}}
routes:
  - {{name: books, match: {{path: /books/*}}, upstream: books}}
  - {{name: all, upstream: books}}
"""


async def test_spans_of_all_routes_go_one_way_and_the_last_ones_when_it_stops(here: Path):
    books, collector = Target(), Target([OK])
    servers = [await asyncio.start_server(target.serve, "127.0.0.1", 0) for target in (books, collector)]
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    config = loaded(CONFIG.format(books=ports[0], collector=ports[1]))
    async with lasting_in(here / "journal") as lasting:
        edge = Edge(lasting)
        listening = socket.create_server(("127.0.0.1", 0))
        gateway = SimpleNamespace(port=listening.getsockname()[1])
        await edge.prepare(1, config, "0", [listening])
        await edge.commit(1)
        for path in ("/books/1", "/2", "/books/3"):
            async with calling(gateway) as client:
                await client.say(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                assert (await client.answer()).endswith(b"ok")
        assert collector.text == b""
        await edge.stop(1.0)
    (request,) = collector.text.split(b"POST /v1/traces ")[1:]
    spans = json.loads(request.partition(b"\r\n\r\n")[2])["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert [span["name"] for span in spans] == ["GET books", "GET all", "GET books"]
    for server in servers:
        server.close()
