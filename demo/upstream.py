"""The endpoints of the demo upstream: one for each kind of answer a gateway has to carry.

Whatever a client can ask for is bounded (seconds, pieces, bytes), so that the demo cannot be made to work for ever.
A parameter outside its bounds is answered 400.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

MEBIBYTE: Final = 2**20
LONGEST_SECONDS: Final = 60.0
MOST_PIECES: Final = 10_000
LARGEST_BODY: Final = 4 * 2**30
LARGEST_ECHO: Final = 16 * MEBIBYTE
PIECE: Final = b"0123456789abcdef" * 4096  # 64 KiB

routes = web.RouteTableDef()


def application() -> web.Application:
    """The demo upstream as an aiohttp application."""
    app = web.Application(client_max_size=LARGEST_ECHO)
    app.add_routes(routes)
    return app


def number(request: web.Request, name: str, default: float, most: float) -> float:
    """A query parameter between 0 and `most`."""
    text = request.query.get(name)
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= most:
        raise web.HTTPBadRequest(text=f"{name} must be a number from 0 to {most:g}\n")
    return value


@routes.get("/")
async def index(request: web.Request) -> web.Response:
    """The list of endpoints, made of their own docstrings."""
    lines = [
        f"{route.method:5} {route.resource.canonical:12} {(route.handler.__doc__ or '').splitlines()[0]}\n"
        for route in request.app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    ]
    return web.Response(text="".join(lines))


@routes.get("/json")
async def small_json(request: web.Request) -> web.Response:
    """A small JSON document."""
    return web.json_response({"id": "thing-1", "object": "thing", "values": [1, 2, 3], "message": "hello"})


@routes.get("/slow")
async def slow(request: web.Request) -> web.Response:
    """An answer after `?seconds=1`."""
    seconds = number(request, "seconds", 1.0, LONGEST_SECONDS)
    await asyncio.sleep(seconds)
    return web.json_response({"slept_seconds": seconds})


@routes.get("/events")
async def events(request: web.Request) -> web.StreamResponse:
    """Server-sent events: `?count=10` of them, one every `?interval=0.5` seconds."""
    count = int(number(request, "count", 10, MOST_PIECES))
    interval = number(request, "interval", 0.5, LONGEST_SECONDS)
    response = web.StreamResponse(headers={"content-type": "text/event-stream", "cache-control": "no-store"})
    await response.prepare(request)
    async for place in paced(count, interval):
        await response.write(f'id: {place}\nevent: tick\ndata: {{"tick": {place}}}\n\n'.encode())
    await response.write_eof()
    return response


@routes.get("/stream")
async def stream(request: web.Request) -> web.StreamResponse:
    """A chunked body: `?count=10` lines, one every `?interval=0.1` seconds."""
    count = int(number(request, "count", 10, MOST_PIECES))
    interval = number(request, "interval", 0.1, LONGEST_SECONDS)
    response = web.StreamResponse(headers={"content-type": "text/plain"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    async for place in paced(count, interval):
        await response.write(f"line {place}\n".encode())
    await response.write_eof()
    return response


async def paced(count: int, interval: float) -> AsyncIterator[int]:
    """0 to `count` - 1, with `interval` seconds between two numbers."""
    for place in range(count):
        if place:
            await asyncio.sleep(interval)
        yield place


@routes.route("*", "/echo")
@routes.route("*", "/echo/{rest:.*}")
@routes.route("*", "/open/{rest:.*}")
async def echo(request: web.Request) -> web.Response:
    """What arrived here: method, path, headers and body (up to 16 MiB)."""
    body = await request.read()
    return web.json_response(
        {
            "method": request.method,
            "path": request.raw_path,
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.raw_headers],
            "body": body.decode("utf-8", "replace"),
        }
    )


@routes.route("*", "/status/{status:[2-5]\\d\\d}")
async def status(request: web.Request) -> web.Response:
    """An answer with any status from 200 to 599."""
    code = int(request.match_info["status"])
    if code in (204, 205, 304):
        return web.Response(status=code)
    return web.json_response({"status": code}, status=code)


@routes.get("/bytes")
async def many_bytes(request: web.Request) -> web.StreamResponse:
    """A body of `?size=1048576` bytes (up to 4 GiB) with a content-length."""
    size = int(number(request, "size", MEBIBYTE, LARGEST_BODY))
    response = web.StreamResponse(headers={"content-type": "application/octet-stream"})
    response.content_length = size
    await response.prepare(request)
    whole, rest = divmod(size, len(PIECE))
    for _ in range(whole):
        await response.write(PIECE)
    await response.write(PIECE[:rest])
    await response.write_eof()
    return response


@routes.post("/upload")
@routes.put("/upload")
async def upload(request: web.Request) -> web.Response:
    """Takes a body of any size, keeps nothing, and says how long it was and its SHA-256."""
    digest = hashlib.sha256()
    size = 0
    async for piece in request.content.iter_any():
        size += len(piece)
        digest.update(piece)
    return web.json_response({"bytes": size, "sha256": digest.hexdigest()})


@routes.post("/ai/chat")
async def chat(request: web.Request) -> web.Response:
    """An answer like a model provider's: its usage in the JSON (`usage.total_tokens`) and in a header (`x-units`)."""
    body = await request.read()
    prompt_tokens = len(body.split())
    answer = "Four score and seven tokens ago."
    completion_tokens = len(answer.split())
    total = prompt_tokens + completion_tokens
    return web.json_response(
        {
            "object": "chat.completion",
            "model": "demo-1",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": total,
            },
        },
        headers={"x-units": str(total)},
    )


@routes.get("/health")
async def health(request: web.Request) -> web.Response:
    """200 as long as the demo upstream runs."""
    return web.Response(text="ok\n")
