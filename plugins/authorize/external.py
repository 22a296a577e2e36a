"""External: somebody else decides, asked by HTTP as Open Policy Agent is: `{"input": {…}}` in, `{"result": …}` out.

Facts are sent, and an answer holds for those facts for a while; so they are the key it is remembered by. Who asks the
same at the same time waits for one answer, and nobody waits longer than `timeout`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec
from pydantic import Field

from gateway.exchange import Exchange
from gateway.expiring import Expiring
from gateway.facts import Facts
from gateway.header_options import FieldValue, RequestFieldName
from gateway.inquiry import Inquiry
from gateway.metrics import GaugePart
from gateway.options import Duration, Options, UpstreamName
from gateway.problem import Overloaded
from gateway.services import Services
from gateway.single_flight import SingleFlight

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
_READERS: Final[Mapping[FactName, Callable[[Exchange, Facts, str | None], Any]]] = {
    "attributes": lambda exchange, _, __: dict(exchange.consumer.attributes),
    "client": lambda _, facts, __: facts.client,
    "consumer": lambda exchange, _, __: exchange.consumer.name,
    "host": lambda _, facts, __: facts.host,
    "key": lambda exchange, _, __: exchange.consumer.key or None,
    "method": lambda _, facts, __: facts.method,
    "organization": lambda exchange, _, __: exchange.consumer.organization,
    "parameters": lambda exchange, _, __: dict(exchange.parameters),
    "path": lambda _, facts, __: facts.path,
    "permission": lambda _, __, wanted: wanted,
    "roles": lambda exchange, _, __: sorted(exchange.consumer.roles),
    "route": lambda exchange, _, __: exchange.route,
    "scopes": lambda exchange, _, __: sorted(exchange.consumer.scopes),
    "user": lambda exchange, _, __: exchange.consumer.user or None,
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
    """What it is told, less what is not known. The fewer facts, the more often an answer is known already."""
    timeout: Duration = Field(default=0.25, gt=0, le=30)
    """How long a request waits for an answer at most."""
    ttl: Duration = Field(default=5.0, le=3600)
    """How long an answer holds for the same facts; `0s` asks every time."""
    max_answers: int = Field(default=10_000, ge=1, le=1_000_000)
    """Answers that are remembered; beyond, the one that was not asked for the longest is forgotten."""
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
        self._inquiry = Inquiry(
            options.upstream,
            options.path,
            {"Content-Type": "application/json", **options.headers},
            within_seconds=options.timeout,
            forward=services.forward,
        )
        self._questions: SingleFlight[Verdict | None] = SingleFlight(
            "authorize", services.background, options.max_questions
        )
        held = services.metrics.gauge("tallygate_authorize_answers", "Answers of policy services that are remembered.")
        self._answers: Expiring[Verdict] = Expiring(options.max_answers, services.clock.monotonic, GaugePart(held))
        self._troubled = False
        results = services.metrics.counter(
            "tallygate_authorize_external_total", "Decisions made elsewhere, by what came of asking.", ("result",)
        )
        self._count = {each: results.labels(each) for each in ("allowed", "denied", "failed", "remembered", "shared")}

    def question(self, exchange: Exchange, wanted: str | None) -> bytes:
        """What is asked about this exchange, as it is sent."""
        facts = Facts.of(exchange)
        told = {name: _READERS[name](exchange, facts, wanted) for name in self.options.facts}
        return _encode({"input": {name: fact for name, fact in told.items() if fact is not None}})

    def remembered(self, question: bytes) -> Verdict | None:
        """The answer that is known already."""
        known = self._answers.get(question)
        if known is not None:
            self._count["remembered"].inc()
        return known

    async def ask(self, question: bytes) -> Verdict | None:
        """The answer, or None if there is none in time. Raises nothing but CancelledError."""
        shared = True

        def first() -> Coroutine[Any, Any, Verdict | None]:
            nonlocal shared
            shared = False
            return self._ask(question)

        try:
            verdict = await self._questions.join(question, first)
        except Overloaded:
            self._count["failed"].inc()
            return None
        # Who came late to a question that fails shares the failure: one of its own would only add to the load of a
        # service that does not answer, and have the request wait longer than `timeout`.
        if shared:
            self._count["shared"].inc()
        return verdict

    async def _ask(self, question: bytes) -> Verdict | None:
        try:
            status, content = await self._inquiry.post(question)
            if status != 200:
                raise ValueError(f"status {status}")
            result = _decode(content).result
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the policy for failures says what follows
            self._failed(str(error) or type(error).__name__)
            return None
        if self._troubled:
            _log.info("decisions of upstream %s are back", self.options.upstream)
            self._troubled = False
        if isinstance(result, bool):
            return self._take(question, Verdict(result, ""))
        return self._take(question, Verdict(result.allow, result.reason[:_LONGEST_REASON]))

    def _take(self, question: bytes, verdict: Verdict) -> Verdict:
        self._count["allowed" if verdict.allowed else "denied"].inc()
        if self.options.ttl > 0 and len(question) <= LONGEST_REMEMBERED:
            self._answers.put(question, verdict, self.options.ttl)
        return verdict

    def close(self) -> None:
        """Forget all answers."""
        self._answers.clear()

    def _failed(self, trouble: str) -> None:
        """Counts it, and logs the first of several in a row."""
        self._count["failed"].inc()
        if not self._troubled:
            _log.warning("no decision from upstream %s: %s", self.options.upstream, trouble)
        self._troubled = True
