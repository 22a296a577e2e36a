"""Chat: an upstream that speaks WebSocket and streams events, made with aiohttp; it remembers who said what."""

from __future__ import annotations

import asyncio
import ssl

from aiohttp import WSMessage, WSMsgType, web


class Chat:
    """`/chat` sends everything back until `leave` is said (code 4001) or the client leaves; `/events` sends events when
    the test says so.

    `said` is the messages of all sessions, `codes` what each one was closed with, `protocols` what each one agreed on.
    """

    def __init__(self) -> None:
        self.said: list[str | bytes] = []
        self.codes: list[int | None] = []
        self.protocols: list[str | None] = []
        self.events: asyncio.Queue[str] = asyncio.Queue()
        self.port = 0
        app = web.Application()
        app.add_routes([web.get("/chat", self._chat), web.get("/events", self._events)])
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _chat(self, request: web.Request) -> web.WebSocketResponse:
        session = web.WebSocketResponse(protocols=("v2.chat", "v1.chat"))
        await session.prepare(request)
        self.protocols.append(session.ws_protocol)
        async for message in session:
            await self._answer(session, message)
        self.codes.append(session.close_code)
        return session

    async def _answer(self, session: web.WebSocketResponse, message: WSMessage) -> None:
        self.said.append(message.data)
        if message.data == "leave":
            await session.close(code=4001, message=b"as you wish")
        elif message.type is WSMsgType.TEXT:
            await session.send_str(message.data)
        else:
            await session.send_bytes(message.data)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Until an empty one."""
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        while event := await self.events.get():
            await response.write(f"data: {event}\n\n".encode())
        return response
