"""Serve a request once, however often it is sent: the same `Idempotency-Key` gets the same answer again.

The first request with a key claims it and goes on to the upstream. Its answer is stored before its last byte leaves, so
a client that has the answer can be sure that it will get no other. See `claims.py` for what the store holds.
"""

from __future__ import annotations

import contextlib
import hashlib
from asyncio import CancelledError, Future, get_running_loop, sleep
from collections.abc import Awaitable, Callable
from typing import Final, Literal

from pydantic import Field

from gateway.exchange import Exchange, Note, Request, Response
from gateway.header_options import FieldName, ResponseFieldName
from gateway.headers import Headers
from gateway.list_options import Methods
from gateway.options import Duration, Size, Statuses, parse_statuses
from gateway.plugin import AUTHENTICATION, Plugin, PluginConfig
from gateway.problem import IdempotencyKeyBusy, IdempotencyKeyMissing, IdempotencyKeyReused, StoreDown
from gateway.services import Services
from gateway.stores.store import StoreUnavailable
from plugins.idempotency.claims import Answer, Claim, Claims, Found
from plugins.idempotency.key import read_key

_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.25
"""Seconds between two looks at a key that somebody else holds."""
_SAID_ANEW: Final = frozenset({"date"})
_LATER: Final = {"retry-after": "1"}


class Config(PluginConfig):
    """Which requests need a key, what a key belongs to, and which answers are kept."""

    header: FieldName = "Idempotency-Key"
    """The header field that holds the key: a string in quotes, as the IETF's draft has it, or the same without them."""
    methods: Methods = Field(default=["POST", "PATCH"], min_length=1)
    """Methods whose requests may have a key; the key of others is left alone."""
    required: bool = False
    """Refuse requests with these methods that have no key (400)."""
    scope: Literal["consumer", "organization"] = "consumer"
    """Who shares keys. Callers without a consumer are told apart by their address."""
    per_route: bool = True
    """Whether the same key is another one on another route."""
    wait: Duration = 5.0
    """How long a request waits for the answer to one with the same key that is being served; then it is refused
    (409)."""
    lock: Duration = Field(default=10.0, ge=1)
    """How long a key stays claimed by a process that died while it served the request."""
    ttl: Duration = Field(default=86400.0, ge=1)
    """How long an answer is kept."""
    max_request: Size = 2**20
    """The largest body of a request with a key; it is read whole, to tell whether the request is the same."""
    max_size: Size = 2**20
    """The largest answer that is kept. Event streams are never kept."""
    on_status: Statuses = parse_statuses(["200-407", "410-424", "426-428", "430-499"])
    """Answers with these statuses are kept. After any other the next request with the key is served anew."""
    marker: ResponseFieldName = "Idempotent-Replayed"
    """The header field that says `true` on an answer that is given again."""
    bill_replays: bool = False
    """Let `metering`, where it stands before this plugin, book an answer each time it is given."""
    without_store: Literal["refuse", "pass"] = "refuse"
    """While the store does not answer: `refuse` requests with a key (503), or let them `pass` as if they had none."""


class _Served:
    """A request that holds its key. `response` is the answer that is being collected in `fields` and `pieces`, if it is
    one to keep.
    """

    __slots__ = ("claim", "fields", "pieces", "response", "size")

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.response: Response | None = None
        self.fields: list[tuple[str, str]] = []
        self.pieces: list[bytes] = []
        self.size = 0


SERVED: Final = Note[_Served]()
REPEATED: Final = Note[Claim]()
"""The claim of an answer that no client has got whole yet."""


class Idempotency(Plugin[Config]):
    """The same `Idempotency-Key` gets the same answer again. Requests that come while the first is being served wait
    for it; its client may leave meanwhile, because the retry wants the answer all the same.

    Each consumer has keys of its own. List it after `metering`: that books an answer when it is given first, and
    nothing when it is given again. Where the client left before the end, only what the answer
    used is booked then, and that it was delivered when it is fetched. Listed before `metering`, answers that are given
    again never reach it.
    """

    behind = AUTHENTICATION

    def __init__(self, config: Config, services: Services) -> None:
        super().__init__(config, services)
        self._methods = frozenset(config.methods)
        self._claims = Claims(services.redis, lock_seconds=config.lock, ttl_seconds=config.ttl)
        self._held: dict[bytes, Claim] = {}  # by token
        metrics = services.metrics
        self._requests = metrics.counter(
            "tallygate_idempotency_requests_total",
            "Requests with an idempotency key, by what became of them.",
            ("route", "result"),
        )
        self._answers = metrics.counter(
            "tallygate_idempotency_answers_total",
            "Answers to the first request with a key, by whether they were kept.",
            ("route", "fate"),
        )
        self._holding = metrics.gauge("tallygate_idempotency_held", "Requests being served that hold their key.")

    async def start(self) -> None:
        self.services.background.every(self.config.lock / 3, self._prolong, "idempotency")

    async def on_request(self, exchange: Exchange) -> Response | None:
        request = exchange.request
        if request.method not in self._methods:
            return None
        key = read_key(request.headers.getall(self.config.header))
        if key is None:
            if self.config.required:
                raise IdempotencyKeyMissing(f"Send the field {self.config.header} with a key of your own.")
            return None
        claim = Claim(self._name(exchange, key), exchange.id)
        try:
            return await self._first_or_again(exchange, claim, await self._fingerprint(request))
        except CancelledError:
            self._later(self._claims.release, claim)  # it may be ours although nobody heard of it
            raise
        except StoreUnavailable as error:
            self._later(self._claims.release, claim)
            self._requests.labels(exchange.route, "no_store").inc()
            if self.config.without_store == "refuse":
                raise StoreDown(headers=_LATER) from error
            return None

    async def _first_or_again(self, exchange: Exchange, claim: Claim, fingerprint: bytes) -> Response | None:
        monotonic = self.services.clock.monotonic
        give_up_at = monotonic() + self.config.wait
        pause = _FIRST_PAUSE
        while (found := await self._claims.take(claim, fingerprint)) is not None:
            if found.fingerprint != fingerprint:
                self._requests.labels(exchange.route, "reused").inc()
                raise IdempotencyKeyReused
            if found.answer is not None:
                self._requests.labels(exchange.route, "replayed").inc()
                return self._again(exchange, found, found.answer)
            if monotonic() + pause > give_up_at:
                self._requests.labels(exchange.route, "busy").inc()
                raise IdempotencyKeyBusy(headers=_LATER)
            await sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)
        self._requests.labels(exchange.route, "first").inc()
        exchange[SERVED] = _Served(claim)
        self._held[claim.token] = claim
        self._holding.inc()
        exchange.on_disconnect = "drain"
        return None

    def _again(self, exchange: Exchange, found: Found, answer: Answer) -> Response:
        if not found.delivered:
            exchange[REPEATED] = found.claim
        if not self.config.bill_replays:
            exchange.billed = "delivery" if found.delivered else "use"
        fields = Headers(answer.fields)
        fields[self.config.marker] = "true"
        return Response(answer.status, fields, answer.body, answer.reason)

    def on_response(self, exchange: Exchange, response: Response) -> None:
        served = exchange.get(SERVED)
        if served is None:
            return
        if self._keeps(response):
            served.response = response
            # As they are here: plugins that stand before this one put in theirs again.
            served.fields = [field for field in response.headers.items() if field[0].lower() not in _SAID_ANEW]
        else:
            self._release(exchange, served)

    def on_chunk(self, exchange: Exchange, chunk: bytes, last: bool) -> bytes:
        served = exchange.get(SERVED)
        if served is not None and served.response is not None:
            served.size += len(chunk)
            served.pieces.append(chunk)
            if served.size > self.config.max_size or served.response is not exchange.response:
                self._release(exchange, served)
            elif last:
                self._settle(exchange, served, served.response)
        return chunk

    def on_finish(self, exchange: Exchange) -> None:
        served = exchange.get(SERVED)
        if served is not None and served.claim.token in self._held:
            if exchange.outcome == "client_gone":
                self._forget(served)  # nobody knows what the upstream did: the claim runs out
            else:
                self._release(exchange, served)
        repeated = exchange.get(REPEATED)
        if repeated is not None and exchange.outcome == "ok" and exchange.status_sent:
            self._later(self._claims.mark_delivered, repeated)

    def _keeps(self, response: Response) -> bool:
        declared = response.headers.get("content-length") or ""
        kind = (response.headers.get("content-type") or "").partition(";")[0].strip().lower()
        fits = not declared.isdecimal() or int(declared) <= self.config.max_size
        return response.status in self.config.on_status and fits and kind != "text/event-stream"

    def _settle(self, exchange: Exchange, served: _Served, response: Response) -> None:
        """The answer is whole: its last piece waits until it is stored."""
        self._forget(served)
        answer = Answer(response.status, response.reason, served.fields, b"".join(served.pieces))
        stored: Future[None] = get_running_loop().create_future()
        exchange.hold(stored)
        delivered = exchange.outcome == "ok"
        work = self._store(exchange.route, served.claim, answer, delivered)
        storing = self.services.background.start(work, "idempotency")
        storing.add_done_callback(lambda _: None if stored.done() else stored.set_result(None))

    async def _store(self, route: str, claim: Claim, answer: Answer, delivered: bool) -> None:
        """What cannot be stored goes out all the same; once the claim has run out a retry is served anew."""
        try:
            fate = "kept" if await self._claims.settle(claim, answer, delivered=delivered) else "late"
        except StoreUnavailable:
            fate = "failed"
        self._answers.labels(route, fate).inc()

    def _release(self, exchange: Exchange, served: _Served) -> None:
        """There is nothing to keep: whoever has the key may try again at once."""
        self._forget(served)
        served.response = None
        served.pieces.clear()
        self._answers.labels(exchange.route, "not_kept").inc()
        self._later(self._claims.release, served.claim)

    def _later(self, tell: Callable[[Claim], Awaitable[None]], claim: Claim) -> None:
        """Tell the store, without waiting for it. What it does not hear, or nobody can tell it any more, runs out."""
        with contextlib.suppress(RuntimeError):  # the process has stopped
            _ = self.services.background.start(_quietly(tell, claim), "idempotency")

    def _forget(self, served: _Served) -> None:
        if self._held.pop(served.claim.token, None) is not None:
            self._holding.inc(-1)

    async def _prolong(self) -> None:
        if self._held:
            await self._claims.prolong(list(self._held.values()))

    async def _fingerprint(self, request: Request) -> bytes:
        """SHA-256 of method, host, target and body. Raises BodyTooLarge, and what the body failed with."""
        body = await request.body.read(self.config.max_request) if request.body.length != 0 else b""
        head = f"{request.method} {request.host} {request.target}\n".encode("latin-1")
        return hashlib.sha256(head + body).digest()

    def _name(self, exchange: Exchange, key: str) -> str:
        """The key in the store: a digest, so that nothing a client says can reach another's."""
        consumer = exchange.consumer
        if consumer is None:
            owner = ("address", exchange.request.client)
        elif self.config.scope == "organization":
            owner = ("organization", consumer.organization)
        else:
            owner = ("consumer", f"{consumer.organization}\0{consumer.name}")
        parts = (*owner, exchange.route if self.config.per_route else "", key)
        return f"idempotency:{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()}"


async def _quietly(tell: Callable[[Claim], Awaitable[None]], claim: Claim) -> None:
    with contextlib.suppress(StoreUnavailable):
        await tell(claim)
