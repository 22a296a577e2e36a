"""External: somebody else decides, asked by HTTP as Open Policy Agent is: `{"input": {…}}` in, `{"result": …}` out.

Facts are sent, and an answer holds for those facts for a while; so they are the key it is remembered by. Who asks the
same at the same time waits for one answer, and nobody waits longer than `timeout`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec
from pydantic import Field

from gateway.body import Body
from gateway.exchange import Exchange, Request
from gateway.facts import Facts
from gateway.header_options import FieldValue, RequestFieldName
from gateway.headers import Headers
from gateway.metrics import GaugePart
from gateway.options import Duration, Options, UpstreamName
from gateway.services import Services

_LARGEST_REPLY: Final = 64 * 1024
_LONGEST_REASON: Final = 200
LONGEST_REMEMBERED: Final = 4096
"""Bytes of a question whose answer is remembered."""

FactName: TypeAlias = Literal[
    "attributes",
    "client",
    "consumer",
    "host",
    "key",
    "method",
    "organization",
    "parameters",
    "path",
    "permission",
    "roles",
    "route",
    "scopes",
    "user",
]
_READERS: Final[Mapping[FactName, Callable[[Exchange, Facts, str], Any]]] = {
    "attributes": lambda exchange, _, __: dict(exchange.consumer.attributes),
    "client": lambda _, facts, __: facts.client,
    "consumer": lambda exchange, _, __: exchange.consumer.name,
    "host": lambda _, facts, __: facts.host,
    "key": lambda exchange, _, __: exchange.consumer.key,
    "method": lambda _, facts, __: facts.method,
    "organization": lambda exchange, _, __: exchange.consumer.organization,
    "parameters": lambda exchange, _, __: dict(exchange.parameters),
    "path": lambda _, facts, __: facts.path,
    "permission": lambda _, __, wanted: wanted,
    "roles": lambda exchange, _, __: sorted(exchange.consumer.roles),
    "route": lambda exchange, _, __: exchange.route,
    "scopes": lambda exchange, _, __: sorted(exchange.consumer.scopes),
    "user": lambda exchange, _, __: exchange.consumer.user,
}

_log: Final = logging.getLogger(__name__)


class ExternalOptions(Options):
    """Somebody else who decides, such as Open Policy Agent."""

    upstream: UpstreamName
    """The upstream that is asked."""
    path: str = Field(default="/v1/data/tallygate/allow", pattern=r"^/[!-~]*$")
    """Where it is asked: POST `{"input": {…}}`, and `{"result": true}` or `{"result": {"allow": true, "reason": "…"}}`
    comes back. An answer without a result allows nothing."""
    headers: dict[RequestFieldName, FieldValue] = {}
    """Header fields of each question, such as a token of the gateway's own."""
    facts: list[FactName] = Field(
        default=["consumer", "organization", "user", "roles", "scopes", "permission", "method", "path", "parameters"],
        min_length=1,
    )
    """What it is told. The fewer facts, the more often an answer is known already."""
    timeout: Duration = Field(default=0.25, gt=0, le=30)
    """How long a request waits for an answer at most."""
    ttl: Duration = Field(default=5.0, le=3600)
    """How long an answer holds for the same facts; `0s` asks every time."""
    max_answers: int = Field(default=10_000, ge=1, le=1_000_000)
    """Answers that are remembered; beyond, the oldest is forgotten."""
    max_questions: int = Field(default=256, ge=1, le=10_000)
    """Questions that may be under way at once in one process; further ones count as failed."""
    on_failure: Literal["deny", "allow", "local"] = "deny"
    """Without an answer: `deny` refuses (503), `allow` lets in and the access log says so, `local` decides by the
    caller's own permissions."""


class Verdict(NamedTuple):
    """What was decided elsewhere, and why, if that was said."""

    allowed: bool
    reason: str


class _Result(msgspec.Struct):
    allow: bool = False
    reason: str = ""


class _Reply(msgspec.Struct):
    result: bool | _Result = False


_decode: Final = msgspec.json.Decoder(_Reply).decode
_encode: Final = msgspec.json.Encoder(order="deterministic").encode


class External:
    """Asks, and remembers the answers."""

    def __init__(self, options: ExternalOptions, services: Services) -> None:
        self.options = options
        self._services = services
        self._monotonic = services.clock.monotonic
        self._answers: dict[bytes, tuple[float, Verdict]] = {}  # the oldest first, and so the first to end
        self._asking: dict[bytes, asyncio.Task[Verdict | None]] = {}
        self._troubled = False
        results = services.metrics.counter(
            "tallygate_authorize_external_total", "Decisions made elsewhere, by what came of asking.", ("result",)
        )
        self._held = GaugePart(
            services.metrics.gauge("tallygate_authorize_answers", "Answers of policy services that are remembered.")
        )
        self._count = {each: results.labels(each) for each in ("allowed", "denied", "failed", "remembered", "shared")}

    def question(self, exchange: Exchange, wanted: str) -> bytes:
        """What is asked about this exchange, as it is sent."""
        facts = Facts.of(exchange)
        return _encode({"input": {name: _READERS[name](exchange, facts, wanted) for name in self.options.facts}})

    def remembered(self, question: bytes) -> Verdict | None:
        """The answer that is known already."""
        known = self._answers.get(question)
        if known is None or known[0] < self._monotonic():
            return None
        self._count["remembered"].inc()
        return known[1]

    async def ask(self, question: bytes) -> Verdict | None:
        """The answer, or None if there is none in time. Raises nothing but CancelledError."""
        task = self._asking.get(question)
        if task is not None:
            self._count["shared"].inc()
        elif len(self._asking) >= self.options.max_questions:
            self._count["failed"].inc()
            return None
        else:
            task = self._asking[question] = self._services.background.start(self._ask(question), "authorize")
            task.add_done_callback(lambda _: self._asking.pop(question, None))
        # One who leaves does not take the answer away from the others.
        await asyncio.wait({task}, timeout=self.options.timeout)
        return task.result() if task.done() and not task.cancelled() else None

    async def _ask(self, question: bytes) -> Verdict | None:
        try:
            async with asyncio.timeout(self.options.timeout):
                result = _decode(await self._reply(question)).result
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the policy for failures says what follows
            self._failed(str(error) or type(error).__name__)
            return None
        if self._troubled:
            _log.info("decisions of upstream %s are back", self.options.upstream)
            self._troubled = False
        if isinstance(result, bool):
            return self._take(question, Verdict(result, ""))
        return self._take(question, Verdict(result.allow, result.reason[:_LONGEST_REASON]))

    async def _reply(self, question: bytes) -> bytes:
        """Raises whatever goes wrong."""
        response = await self._services.forward(self._request(question), self.options.upstream)
        try:
            if response.status != 200:
                raise ValueError(f"status {response.status}")
            body = response.body
            reply = body if isinstance(body, bytes) else await body.read(_LARGEST_REPLY)
            if len(reply) > _LARGEST_REPLY:
                raise ValueError(f"an answer of {len(reply)} bytes")
            return reply
        finally:
            response.close()

    def _take(self, question: bytes, verdict: Verdict) -> Verdict:
        self._count["allowed" if verdict.allowed else "denied"].inc()
        if self.options.ttl > 0 and len(question) <= LONGEST_REMEMBERED:
            self._answers.pop(question, None)
            if len(self._answers) >= self.options.max_answers:
                del self._answers[next(iter(self._answers))]
            self._answers[question] = self._monotonic() + self.options.ttl, verdict
            self._held.set(len(self._answers))
        return verdict

    def close(self) -> None:
        """Forget all answers."""
        self._answers.clear()
        self._held.set(0)

    def _failed(self, trouble: str) -> None:
        """Counts it, and logs the first of several in a row."""
        self._count["failed"].inc()
        if not self._troubled:
            _log.warning("no decision from upstream %s: %s", self.options.upstream, trouble)
        self._troubled = True

    def _request(self, question: bytes) -> Request:
        payload = Body(length=len(question))
        payload.feed(question)
        payload.finish()
        fields = {"Content-Type": "application/json", **self.options.headers}
        return Request("POST", self.options.path, Headers(fields), payload)
