"""Endpoint: asks the authorization server what it knows about a token (RFC 7662 §2)."""

from __future__ import annotations

import logging
from base64 import b64encode
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any, Final, Literal
from urllib.parse import quote_plus, urlencode

import msgspec

from gateway.body import BodyTooLarge
from gateway.exchange import Request, Response
from gateway.inquiry import Inquiry
from gateway.metrics import Metrics
from gateway.problem import IssuerDown, retry_after

_RESTS: Final = 1.0
"""Seconds in which it is not asked again after it gave no answer, and none to any other question meanwhile: who waits
for it must not pile up. One that it answers others beside may just not be able to cope with this token."""
_QUIET: Final = 60.0
"""Seconds between two lines in the log about what fails."""
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
        self._now = now
        self._rests_until = 0.0
        self._heard_at = -inf
        self._quiet_until = 0.0
        fields = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        self._form = {"token_type_hint": "access_token"}
        if way == "basic":
            said = ":".join(map(quote_plus, client)).encode()
            fields["Authorization"] = f"Basic {b64encode(said).decode()}"
        else:
            self._form |= {"client_id": client[0], "client_secret": client[1]}
        self._inquiry = Inquiry(upstream, path, fields, within_seconds=within_seconds, forward=forward)
        asked = metrics.counter(
            "tallygate_introspections_total",
            "Tokens asked about, by upstream and what came of it.",
            ("upstream", "result"),
        )
        self._answered, self._failed = asked.labels(upstream, "answered"), asked.labels(upstream, "failed")

    async def ask(self, token: str) -> dict[str, Any]:
        """What it says about the token: `active`, and claims. Raises IssuerDown."""
        asked_at = self._now()
        if asked_at < self._rests_until:
            raise IssuerDown(headers=retry_after(_RESTS))
        try:
            status, content = await self._inquiry.post(urlencode({"token": token, **self._form}).encode())
        except BodyTooLarge:  # no rest here either: the answer to the next token may be smaller
            raise self._failure("an answer that is too large") from None
        except Exception as error:  # noqa: BLE001 - whatever it was: there is no answer
            if self._heard_at < asked_at:
                self._rests_until = self._now() + _RESTS
            raise self._failure(str(error) or type(error).__name__) from None
        self._heard_at = self._now()
        found = _members(content) if status == 200 else {}
        if type(found.get("active")) is not bool:  # no rest: the next token may be one that it can cope with
            raise self._failure(f"an answer with status {status} that does not say whether the token is active")
        self._answered.inc()
        return found

    def _failure(self, why: str) -> IssuerDown:
        self._failed.inc()
        if self._now() >= self._quiet_until:
            self._quiet_until = self._now() + _QUIET
            log.warning("introspection at upstream %s: %s", self._upstream, why)
        return IssuerDown(headers=retry_after(_RESTS))


def _members(content: bytes) -> dict[str, Any]:
    """The members of a JSON object; none of what is not one."""
    try:
        return _decode(content)
    except (msgspec.DecodeError, ValueError):
        return {}
