"""What goes wrong, said once: an RFC 9457 problem that any hook may raise, and the catalogue of all of them.

A problem's docstring is its title. Only problems cross a border; any other exception is a bug of ours.
"""

from __future__ import annotations

import math
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

    def __init__(self, detail: str | None = None, *, headers: dict[str, str] | None = None, **members: Any) -> None:
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
        fields.update(self.headers)
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


class ContentTooLarge(Problem):
    """The request's body is larger than this route accepts."""

    status, slug = 413, "content-too-large"


class TargetTooLong(Problem):
    """The request target is longer than this gateway accepts."""

    status, slug = 414, "target-too-long"


class ExpectationFailed(Problem):
    """The request expects something that this gateway does not do."""

    status, slug = 417, "expectation-failed"


class IdempotencyKeyReused(Problem):
    """The idempotency key was used before, for another request."""

    status, slug = 422, "idempotency-key-reused"


class ConfigurationRefused(Problem):
    """The configuration cannot be taken; the one before goes on."""

    status, slug = 422, "configuration-refused"


class UpgradeRequired(Problem):
    """This version of WebSocket is not spoken here."""

    status, slug = 426, "upgrade-required"


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


class GatewayTimeout(Problem):
    """The upstream did not answer in time."""

    status, slug = 504, "gateway-timeout"


class VersionNotSupported(Problem):
    """This listener speaks HTTP/1.1 and HTTP/1.0."""

    status, slug = 505, "http-version-not-supported"
