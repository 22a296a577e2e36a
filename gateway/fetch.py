"""Fetch: what the gateway asks other servers for itself (probes, keys of issuers, notices), never on the data path.

The one door to aiohttp's client: every request has a deadline, every body a limit, certificates are verified, and
neither proxies of the environment nor redirects nor cookies are followed. Each request has a connection of its own:
that is what a probe wants to know about, and what is asked once in a while would find a kept one gone stale.
"""

from __future__ import annotations

import os
from asyncio import timeout
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ssl import SSLContext
from typing import Final, TypeAlias

from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    TCPConnector,
)

from gateway.headers import Headers

_CONNECTIONS: Final = 256
_READ_AT_ONCE: Final = 64 * 1024

TlsTerms: TypeAlias = tuple[SSLContext, str]
"""How a server is verified, and who it must be, where that is not by the system's authorities what its URL says."""


class FetchFailed(Exception):
    """There was no answer, or none that could be taken. The text says why, for a log."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer, whole."""

    status: int
    headers: Headers
    body: bytes


class Fetch:
    """One session for all that this process asks; at most 256 requests at once, the others wait for their turn.

    `within` is the seconds that an answer may take from the call on, all included.
    """

    def __init__(self) -> None:
        self._session: ClientSession | None = None

    async def get(
        self,
        url: str,
        *,
        within: float,
        limit: int,
        fields: Mapping[str, str] | None = None,
        tls: TlsTerms | None = None,
    ) -> Fetched:
        """GET `url` with these header fields; the body may hold `limit` bytes. Raises FetchFailed."""
        return await self.send("GET", url, within=within, limit=limit, fields=fields, tls=tls)

    async def send(
        self,
        method: str,
        url: str,
        *,
        within: float,
        limit: int,
        fields: Mapping[str, str] | None = None,
        body: bytes | None = None,
        tls: TlsTerms | None = None,
    ) -> Fetched:
        """A request of any method, with a body; the answer's may hold `limit` bytes. Raises FetchFailed."""
        async with self._ask(method, url, within, fields, body=body, tls=tls) as response:
            answer = bytearray()
            async for piece in response.content.iter_chunked(_READ_AT_ONCE):
                answer += piece
                if len(answer) > limit:
                    raise FetchFailed(f"the answer holds more than {limit} bytes")
            fields_back = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.raw_headers]
            return Fetched(response.status, Headers(fields_back), bytes(answer))

    async def status(
        self,
        url: str,
        *,
        within: float,
        fields: Mapping[str, str] | None = None,
        tls: TlsTerms | None = None,
    ) -> int:
        """GET `url` for the status alone; the body is not waited for. Raises FetchFailed."""
        async with self._ask("GET", url, within, fields, tls=tls) as response:
            return response.status

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @asynccontextmanager
    async def _ask(
        self,
        method: str,
        url: str,
        within: float,
        fields: Mapping[str, str] | None,
        *,
        body: bytes | None = None,
        tls: TlsTerms | None = None,
    ) -> AsyncIterator[ClientResponse]:
        if self._session is None:  # made where a loop runs
            self._session = ClientSession(
                connector=TCPConnector(limit=_CONNECTIONS, force_close=True),
                cookie_jar=DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                timeout=ClientTimeout(),  # each request brings its own deadline
                headers={"user-agent": "tallygate", "accept-encoding": "identity"},
            )
        context, name = tls or (True, None)
        asking = self._session.request(
            method, url, headers=fields, data=body, allow_redirects=False, ssl=context, server_hostname=name
        )
        try:
            async with timeout(within), asking as response:
                try:
                    yield response
                finally:
                    response.close()
        except TimeoutError:
            raise FetchFailed(f"no answer within {within:g} s") from None
        except (ClientError, OSError, ValueError) as error:
            raise FetchFailed(_reason(error)) from None


def _reason(error: Exception) -> str:
    """What went wrong, in the words of the system where it has some."""
    if type(error) is ClientConnectorError and error.errno:
        return os.strerror(error.errno).lower()
    return str(error) or type(error).__name__
