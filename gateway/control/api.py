"""API: the REST interface of the control plane: every operation of the list, and what all of them have in common.

Who asks is known before anything is read; what is asked for happens in one transaction under row level security, with
its entry in the audit log and in the outbox; what is refused is a problem (RFC 9457).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import msgspec
from aiohttp import web

from gateway.clock import Clock, uuid_text
from gateway.control import asking, openapi
from gateway.control.collection import ORGANIZATIONS
from gateway.control.database import EVERYBODY, acting_for
from gateway.control.handlers import Answer, Call
from gateway.control.listening import SERVER, answer_of
from gateway.control.operations import Operation, operations
from gateway.control.principal import Authentication, Principal
from gateway.metrics import Metrics
from gateway.postgres import Connection, Database, DatabaseUnavailable, Retry, Unacceptable
from gateway.problem import (
    BadRequest,
    ContentTooLarge,
    IdempotencyKeyReused,
    InvalidValues,
    MediaTypeNotSupported,
    MethodNotAllowed,
    NoRoute,
    NotFound,
    Overloaded,
    PermissionDenied,
    Problem,
    RequestTimeout,
    StoreDown,
    retry_after,
)

_log: Final = logging.getLogger(__name__)
_HEALTH: Final = "/health"
_REQUEST: Final = web.RequestKey("request", str)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Repetition:
    """What makes a request the same as an earlier one: whose it is, its idempotency key, and what it asked for."""

    principal: str
    digest: bytes
    fingerprint: bytes


class Api:
    """Answers requests; `application` is what is served."""

    def __init__(
        self,
        database: Database,
        authentication: Authentication,
        *,
        clock: Clock,
        metrics: Metrics,
        deadline: float,
        at_once: int,
    ) -> None:
        """`database` acts as `CONTROL`; `deadline` in seconds and `at_once` bound what requests may take."""
        self._database = database
        self._authentication = authentication
        self._clock = clock
        self._deadline = deadline
        self._room = at_once
        self._share = max(1, at_once // 4)
        self._under_way: Counter[str] = Counter()
        self._requests = metrics.counter(
            "tallygate_control_requests_total", "Requests that the control plane answered.", ("operation", "status")
        )
        self._document = msgspec.json.encode(openapi.document(operations()))
        self.application = web.Application(middlewares=[self._guard], client_max_size=asking.LARGEST_BODY)
        self.application.on_response_prepare.append(_dress)
        self.application.router.add_get(_HEALTH, self._health)
        self.application.router.add_get("/v1/openapi.json", self._describe)
        for operation in operations():
            self.application.router.add_route(
                operation.method, operation.path, self._handler(operation), name=operation.identifier
            )

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(body=b'{"status":"alive"}', content_type=asking.JSON)

    async def _describe(self, _: web.Request) -> web.Response:
        return web.Response(body=self._document, content_type=asking.JSON)

    def _handler(self, operation: Operation) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            who = await self._authentication.authenticate(request.headers.getall("authorization", []), request.remote)
            if operation.permission is not None:
                who.require(operation.permission)
            if operation.for_all and who.tenant != EVERYBODY:
                raise PermissionDenied("Only those can ask for this who act for every organization.")
            with self._share_of(who):
                return await self._perform(operation, request, who)

        return handle

    @contextmanager
    def _share_of(self, who: Principal) -> Iterator[None]:
        """No organization takes all the room, however slowly it asks. Raises Overloaded."""
        if self._under_way[who.tenant] >= self._share and who.tenant != EVERYBODY:
            raise Overloaded("Too many requests of this organization are under way.", headers=retry_after(1))
        self._under_way[who.tenant] += 1
        try:
            yield
        finally:
            self._under_way[who.tenant] -= 1
            if not self._under_way[who.tenant]:
                del self._under_way[who.tenant]

    async def _perform(self, operation: Operation, request: web.Request, who: Principal) -> web.Response:
        """Reads the request to its end, then does all of it in one transaction."""
        names = request.match_info
        if not all(asking.NAME.fullmatch(name) for name in names.values()):
            raise NotFound
        page = asking.page_of(list(request.query.items()), paged=operation.paged)
        raw = await _read(request)
        body = None
        if operation.body is not None:
            if "content-encoding" in request.headers:
                raise MediaTypeNotSupported("Send it without Content-Encoding.")
            content_type = request.headers.get("content-type", "")
            body = asking.body_of(raw, content_type, operation.body, patch=operation.method == "PATCH")
        elif raw:
            raise BadRequest("This operation takes no body.")
        version = asking.version_of(request.headers.getall("if-match", [])) if operation.versioned else None
        repetition = _repetition(operation, request, who, raw)
        organization: str | None = names.get("organization")
        name = names.get("name", "")
        async with acting_for(self._database, who.tenant, actor=who.name, request=request[_REQUEST]) as connection:
            tenant = await _narrowed(connection, operation, who, organization)
            if operation.collection is ORGANIZATIONS:
                organization, name = None, names.get("organization", "")
            place = (connection, operation.collection, who, self._clock, organization, name)
            call = Call(*place, body, version, page.after, page.limit)
            if repetition is None:
                return _response(operation, await operation.handler(call))
            return await _once(operation, call, repetition, tenant)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every refusal is a problem without internals; nothing takes longer than the deadline."""
        request[_REQUEST] = uuid_text(self._clock.uuid7())
        self._room -= 1
        try:
            if self._room < 0 and request.path != _HEALTH:
                raise Overloaded(headers=retry_after(1))
            async with asyncio.timeout(self._deadline):
                response = await handler(request)
        except Exception as error:  # noqa: BLE001 - a bug here must not show its text to whoever asked
            response = _refusal(error, request)
        finally:
            self._room += 1
        if not request.content.is_eof():
            response.force_close()  # what is left of the body is nobody's
        self._requests.labels(request.match_info.route.name or "other", str(response.status)).inc()
        return response


def _refusal(error: Exception, request: web.Request) -> web.Response:
    """The problem that an exception stands for."""
    match error:
        case Problem():
            problem = error
        case web.HTTPMethodNotAllowed():
            problem = MethodNotAllowed(headers={"allow": ", ".join(sorted(error.allowed_methods))})
        case web.HTTPException():
            problem = NoRoute("What there is: /v1/openapi.json.")
        case TimeoutError():
            problem = RequestTimeout() if not request.content.is_eof() else StoreDown(headers=retry_after(1))
        case DatabaseUnavailable() | Retry():
            _log.warning("%s %s: %s", request.method, request.path, error)
            problem = StoreDown(headers=retry_after(1))
        case Unacceptable():
            problem = InvalidValues()
        case _:
            _log.error("%s %s failed", request.method, request.path, exc_info=error)
            problem = Problem()
    return answer_of(problem, request[_REQUEST])


async def _read(request: web.Request) -> bytes:
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise ContentTooLarge(f"At most {asking.LARGEST_BODY} bytes.") from None
    except (web.HTTPException, ValueError, asyncio.IncompleteReadError):
        raise BadRequest from None


async def _narrowed(connection: Connection, operation: Operation, who: Principal, organization: str | None) -> str:
    """From here on nothing but this organization can be reached; it must be within reach. Returns the tenant."""
    if organization is None:
        return who.tenant
    if not await connection.value("is_within_reach", organization):
        raise NotFound("There is no organization of this name within reach.")
    if operation.collection is ORGANIZATIONS and who.tenant == EVERYBODY:
        return who.tenant
    await connection.run("narrow_to", organization)
    return organization


def _repetition(operation: Operation, request: web.Request, who: Principal, raw: bytes) -> Repetition | None:
    key = asking.idempotency_key_of(request.headers.getall("idempotency-key", [])) if operation.repeatable else None
    if key is None:
        return None
    fingerprint = sha256(b"\n".join((request.method.encode(), request.raw_path.encode(), raw))).digest()
    return Repetition(who.name, sha256(key.encode()).digest(), fingerprint)


async def _once(operation: Operation, call: Call, repetition: Repetition, tenant: str) -> web.Response:
    """Does it the first time, and gives the same answer every time after; only a secret is not said again.

    Whoever repeats a request that is under way waits here for its end.
    """
    connection, mark = call.connection, (repetition.principal, repetition.digest)
    if await connection.value("claim_answer", *mark, tenant, repetition.fingerprint):
        answer = await operation.handler(call)
        headers = msgspec.json.encode(_headers(answer)).decode()
        await connection.run("keep_answer", *mark, operation.status, headers, answer.document)
        return _response(operation, answer)
    earlier = await connection.rows("earlier_answer", *mark)
    if not earlier or earlier[0]["fingerprint"] != repetition.fingerprint:
        raise IdempotencyKeyReused
    (row,) = earlier
    headers = msgspec.json.decode(row["headers"]) | {"idempotency-replayed": "true"}
    return web.Response(status=row["status"], headers=headers, body=row["body"].encode())


def _response(operation: Operation, answer: Answer) -> web.Response:
    document = answer.shown_once or answer.document
    body = None if document is None else document.encode()
    return web.Response(status=operation.status, headers=_headers(answer), body=body)


def _headers(answer: Answer) -> dict[str, str]:
    headers: dict[str, str] = {}
    if answer.document is not None:
        headers["content-type"] = asking.JSON
    if answer.version is not None:
        headers["etag"] = f'"{answer.version}"'
    if answer.location is not None:
        headers["location"] = answer.location
    return headers


async def _dress(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["server"] = SERVER
    response.headers["cache-control"] = "no-store"
    response.headers["x-content-type-options"] = "nosniff"
    response.headers["x-request-id"] = request.get(_REQUEST, "")
