"""Inquiry: a question that the gateway itself asks an upstream, outside of any chain, and the whole of the answer."""

from __future__ import annotations

from asyncio import timeout
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from gateway.body import Body, BodyTooLarge
from gateway.exchange import Request, Response
from gateway.headers import Headers

LARGEST_ANSWER: Final = 64 * 1024
"""Bytes of an answer; none that is larger is read."""


class Inquiry:
    """Questions to one path of one upstream, all with the same header fields, each answered in time or not at all."""

    def __init__(
        self,
        upstream: str,
        path: str,
        fields: Mapping[str, str],
        *,
        within_seconds: float,
        forward: Callable[[Request, str], Awaitable[Response]],
    ) -> None:
        """`forward` is that of the services."""
        self._upstream = upstream
        self._path = path
        self._fields = fields
        self._within = within_seconds
        self._forward = forward

    async def post(self, content: bytes) -> tuple[int, bytes]:
        """The status and the body of what comes back; a redirect is not followed.

        Raises TimeoutError, BodyTooLarge, and whatever else goes wrong.
        """
        body = Body(length=len(content))
        body.feed(content)
        body.finish()
        try:
            async with timeout(self._within):
                return await self._answer(Request("POST", self._path, Headers(self._fields), body))
        except TimeoutError:
            raise TimeoutError(f"no answer within {self._within:g} s") from None

    async def _answer(self, request: Request) -> tuple[int, bytes]:
        response = await self._forward(request, self._upstream)
        try:
            return response.status, await _read(response.body)
        finally:
            response.close()


async def _read(body: Body | bytes) -> bytes:
    content = body if isinstance(body, bytes) else await body.read(LARGEST_ANSWER)
    if len(content) > LARGEST_ANSWER:
        raise BodyTooLarge
    return content
