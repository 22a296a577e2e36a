"""Endpoint: asks the authorization server what it knows about a token (RFC 7662 §2)."""

from __future__ import annotations

import logging
from asyncio import timeout
from base64 import b64encode
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal
from urllib.parse import quote_plus, urlencode

import msgspec

from gateway.body import Body
from gateway.exchange import Request, Response
from gateway.headers import Headers
from gateway.metrics import Metrics
from gateway.problem import IssuerDown, retry_after

_LARGEST: Final = 64 * 1024
_RESTS: Final = 1.0
"""Seconds after a failure in which it is not asked again: who waits for it must not pile up."""
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode

log: Final = logging.getLogger(__name__)


class Endpoint:
    """One path of one upstream, and who we are there."""

    def __init__(
        self,
        upstream: str,
        path: str,
        client: tuple[str, str],
        way: Literal["basic", "post"],
        *,
        within_seconds: float,
        forward: Callable[[Request, str], Awaitable[Response]],
        now: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        """`client` is our id and secret, said as RFC 6749 §2.3.1 has it in one `way` or the other."""
        self._upstream = upstream
        self._path = path
        self._within = within_seconds
        self._forward = forward
        self._now = now
        self._rests_until = 0.0
        self._failing = False
        self._fields = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        self._form = {"token_type_hint": "access_token"}
        if way == "basic":
            said = ":".join(map(quote_plus, client)).encode()
            self._fields["Authorization"] = f"Basic {b64encode(said).decode()}"
        else:
            self._form |= {"client_id": client[0], "client_secret": client[1]}
        asked = metrics.counter(
            "tallygate_introspections_total",
            "Tokens asked about, by upstream and what came of it.",
            ("upstream", "result"),
        )
        self._answered, self._failed = asked.labels(upstream, "answered"), asked.labels(upstream, "failed")

    async def ask(self, token: str) -> dict[str, Any]:
        """What it says about the token: `active`, and claims. Raises IssuerDown."""
        if self._now() < self._rests_until:
            raise IssuerDown(headers=retry_after(_RESTS))
        try:
            async with timeout(self._within):
                found = await self._answer(token)
        except Exception as error:  # noqa: BLE001 - whatever it was: nobody can tell now
            self._failed.inc()
            self._rests_until = self._now() + _RESTS
            if not self._failing:
                log.warning("introspection at upstream %s: %s", self._upstream, str(error) or type(error).__name__)
            self._failing = True
            raise IssuerDown(headers=retry_after(_RESTS)) from None
        self._answered.inc()
        if self._failing:
            log.info("introspection at upstream %s answers again", self._upstream)
        self._failing = False
        return found

    async def _answer(self, token: str) -> dict[str, Any]:
        form = urlencode({"token": token, **self._form}).encode()
        body = Body(length=len(form))
        body.feed(form)
        body.finish()
        response = await self._forward(Request("POST", self._path, Headers(self._fields), body), self._upstream)
        try:
            if response.status != 200:
                raise LookupError(f"status {response.status}")
            content = response.body if isinstance(response.body, bytes) else await response.body.read(_LARGEST)
            if len(content) > _LARGEST:
                raise LookupError(f"an answer of more than {_LARGEST} bytes")
        finally:
            response.close()
        found = _decode(content)
        if type(found.get("active")) is not bool:
            raise LookupError("an answer that does not say whether the token is active")
        return found
