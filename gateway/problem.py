"""What goes wrong, said once: an RFC 9457 problem that any hook may raise, and the catalogue of all of them.

A problem's docstring is its title. Only problems cross a border; any other exception is a bug of ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import msgspec

from gateway.exchange import Response
from gateway.headers import Headers

TYPE_PREFIX: Final = "https://tallygate.dev/problems/"
_encode = msgspec.json.Encoder().encode


class Problem(Exception):
    """The gateway failed to do its work."""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal-error"

    def __init__(
        self, detail: str | None = None, *, headers: Mapping[str, str | list[str]] | None = None, **members: Any
    ) -> None:
        """`headers` are fields that go with it; each text in a list is a field of its own."""
        super().__init__(detail or self.title())
        self.detail = detail
        self.headers = headers or {}
        self.members = members

    @classmethod
    def title(cls) -> str:
        """The first line of the docstring, without its full stop."""
        return (cls.__doc__ or "").strip().split("\n")[0].rstrip(".")

    def document(self, instance: str | None = None) -> bytes:
        """The problem as JSON (RFC 9457 §3); `instance` is the id of the request it belongs to."""
        members: dict[str, Any] = {"type": TYPE_PREFIX + self.slug, "title": self.title(), "status": self.status}
        if self.detail:
            members["detail"] = self.detail
        if instance:
            members["instance"] = f"urn:uuid:{instance}"
        return _encode(members | self.members)

    def fields(self) -> Headers:
        """The header fields that go with the document."""
        fields = Headers({"Content-Type": "application/problem+json", "Cache-Control": "no-store"})
        for name, value in self.headers.items():
            for text in [value] if isinstance(value, str) else value:
                fields.add(name, text)
        return fields

    def response(self, instance: str | None = None) -> Response:
        """The problem as an answer."""
        return Response(self.status, self.fields(), self.document(instance))


def retry_after(seconds: float) -> dict[str, str]:
    """The field that says when to try again (RFC 9110 §10.2.3): whole seconds, never less than one."""
    return {"retry-after": str(max(1, math.ceil(seconds)))}


class BadRequest(Problem):
    """The request is not valid HTTP."""

    status, slug = 400, "bad-request"


class MalformedBody(Problem):
    """The request's body is not one JSON object."""

    status, slug = 400, "malformed-body"


class Unauthorized(Problem):
    """The request carries no valid credential."""

    status, slug = 401, "unauthorized"


class AddressRefused(Problem):
    """Requests from this address are not accepted here."""

    status, slug = 403, "address-refused"


class KeyRestricted(Problem):
    """This key may not be used here."""

    status, slug = 403, "key-restricted"


class OriginRefused(Problem):
    """Pages of this origin may not call here from a browser."""

    status, slug = 403, "origin-refused"


class PermissionDenied(Problem):
    """The caller is known, and may not do this."""

    status, slug = 403, "permission-denied"


class NotFound(Problem):
    """There is no such thing, or it is out of the caller's reach."""

    status, slug = 404, "not-found"


class NoRoute(Problem):
    """No route matches this request."""

    status, slug = 404, "no-route"


class IdempotencyKeyMissing(Problem):
    """This request needs an idempotency key, so that repeating it is safe."""

    status, slug = 400, "idempotency-key-missing"


class IdempotencyKeyInvalid(Problem):
    """The idempotency key is not valid."""

    status, slug = 400, "idempotency-key-invalid"


class MethodNotAllowed(Problem):
    """This path exists, but not with this method."""

    status, slug = 405, "method-not-allowed"


class RequestTimeout(Problem):
    """The request did not arrive in time."""

    status, slug = 408, "request-timeout"


class IdempotencyKeyBusy(Problem):
    """A request with this idempotency key is still being served."""

    status, slug = 409, "idempotency-key-busy"


class AlreadyExists(Problem):
    """There is such a thing already."""

    status, slug = 409, "already-exists"


class InUse(Problem):
    """Other things still name this one, or it can no longer be used so."""

    status, slug = 409, "in-use"


class TooMany(Problem):
    """There are as many of these as there can be."""

    status, slug = 409, "too-many"


class VersionMismatch(Problem):
    """It has changed since the version that the request names."""

    status, slug = 412, "version-mismatch"


class ContentTooLarge(Problem):
    """The request's body is larger than this route accepts."""

    status, slug = 413, "content-too-large"


class TargetTooLong(Problem):
    """The request target is longer than this gateway accepts."""

    status, slug = 414, "target-too-long"


class MediaTypeNotSupported(Problem):
    """The request's body is not of a type that can be taken here."""

    status, slug = 415, "media-type-not-supported"


class ExpectationFailed(Problem):
    """The request expects something that this gateway does not do."""

    status, slug = 417, "expectation-failed"


class IdempotencyKeyReused(Problem):
    """The idempotency key was used before, for another request."""

    status, slug = 422, "idempotency-key-reused"


class InvalidValues(Problem):
    """The request says something that cannot be."""

    status, slug = 422, "invalid-values"


class ConfigurationRefused(Problem):
    """The configuration cannot be taken; the one before goes on."""

    status, slug = 422, "configuration-refused"


class UpgradeRequired(Problem):
    """This version of WebSocket is not spoken here."""

    status, slug = 426, "upgrade-required"


class VersionMissing(Problem):
    """A change must name the version it changes, in the field If-Match."""

    status, slug = 428, "version-missing"


class TooManyFailures(Problem):
    """Too many wrong credentials came from this address."""

    status, slug = 429, "too-many-failures"


class HeadTooLarge(Problem):
    """The request's head is larger than this gateway accepts."""

    status, slug = 431, "head-too-large"


class NotImplementedHere(Problem):
    """The request asks for something that this gateway does not implement."""

    status, slug = 501, "not-implemented"


class BadGateway(Problem):
    """The upstream could not be reached or did not answer with valid HTTP."""

    status, slug = 502, "bad-gateway"


class Overloaded(Problem):
    """The gateway has no room for this request at the moment."""

    status, slug = 503, "overloaded"


class CircuitOpen(Problem):
    """The upstream failed too often and is given time to recover."""

    status, slug = 503, "circuit-open"


class JournalFull(Problem):
    """Usage cannot be recorded at the moment, so nothing is served that could not be billed."""

    status, slug = 503, "journal-full"


class StoreDown(Problem):
    """A store that this request needs does not answer."""

    status, slug = 503, "store-down"


class IssuerDown(Problem):
    """Whoever issued this credential does not answer, so nobody can tell whether it is valid."""

    status, slug = 503, "issuer-down"


class Undecided(Problem):
    """Whether this is permitted cannot be found out at the moment."""

    status, slug = 503, "undecided"


class GatewayTimeout(Problem):
    """The upstream did not answer in time."""

    status, slug = 504, "gateway-timeout"


class VersionNotSupported(Problem):
    """This listener speaks HTTP/1.1 and HTTP/1.0."""

    status, slug = 505, "http-version-not-supported"
