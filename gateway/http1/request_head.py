"""Request head: which bytes may begin a request, and what its fields say it is for (RFC 9112, RFC 9110)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from gateway.exchange import Request
from gateway.headers import Field, Fields
from gateway.http1.grammar import CHUNKED, HOP_BY_HOP, LENGTH, NEVER_IN_HEAD, NEVER_NAMED, TOKEN, options_of, valid_host
from gateway.problem import (
    BadRequest,
    ExpectationFailed,
    HeadTooLarge,
    NotImplementedHere,
    Problem,
    TargetTooLong,
    VersionNotSupported,
)

REQUEST_LINE: Final = re.compile(rb"(" + TOKEN + rb") ([!\"$-\[\]-~]++) HTTP/1\.([01])\r\n")
_ANY_REQUEST_LINE: Final = re.compile(rb"(" + TOKEN + rb") ([!-~]+) HTTP/(\d)\.(\d)$")
_ABSOLUTE: Final = re.compile(r"(?i)(https?)://([^/?]*)(.*)")
_MAX_FORWARDS: Final = re.compile(r"\d{1,9}")
_FIELD_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CODING: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
NOTABLE: Final = HOP_BY_HOP | {"host", "content-length", "expect", "max-forwards"}


def refuse_head(head: bytes, max_head: int, checked: int = 0) -> Problem | None:
    """Why these bytes, complete or not, cannot be the start of a request; None where more bytes may still mend them.

    `checked` bytes at the beginning were examined before and are not looked at again, so that a head which arrives
    byte by byte costs time in proportion to its length.
    """
    end = head.find(b"\r\n\r\n", max(0, checked - 3))
    if end >= 0:
        head = head[: end + 4]  # what follows is not the head's fault
    end_of_line = head.find(b"\r\n")
    if (end_of_line if end_of_line >= 0 else len(head)) > max_head:
        return TargetTooLong(f"The request line is longer than {max_head} bytes.")
    if NEVER_IN_HEAD.search(head, max(0, checked - 1)):
        return BadRequest("The request's head contains a control character or a line that does not end in CRLF.")
    if end_of_line >= 0:
        problem = _refuse_request_line(head[:end_of_line])
        if problem is not None:
            return problem
    elif head and not _FIELD_NAME.match(head):
        return BadRequest("The request does not begin with a method.")
    if len(head) > max_head:
        return HeadTooLarge(f"The request's head is larger than {max_head} bytes.")
    if end >= 0:
        return BadRequest("A header field is not valid.")
    return None


def _refuse_request_line(line: bytes) -> Problem | None:
    match = _ANY_REQUEST_LINE.match(line)
    if match is None or b"\\" in match[2]:
        return BadRequest("The request line is not valid.")
    if b"#" in match[2]:
        return BadRequest("The request target contains a fragment.")
    if match[3] != b"1" or match[4] not in b"01":
        return VersionNotSupported("This listener speaks HTTP/1.1 and HTTP/1.0.")
    return None


class RequestMeaning(NamedTuple):
    """What a block of fields says about the request it stands in. `plain`: no more than its Host."""

    fields: Fields
    """Those that the exchange is about."""
    host: str
    length: int = 0
    """Bytes of the body, or CHUNKED."""
    plain: bool = True
    keep_alive: bool = True
    expects_continue: bool = False
    accepts_trailers: bool = False
    upgrade: frozenset[str] = frozenset()
    """The protocols that it asks to go on in; HTTP/1.0 asks for none (RFC 9110 §7.8)."""
    hops: Sequence[str] = ()
    """The values of Max-Forwards."""


def read_request_fields(fields: Fields, noted: Iterable[Field], *, http10: bool) -> RequestMeaning:
    """What the NOTABLE among a request's fields mean.

    Raises a Problem for whatever two readers could read differently.
    Sources: RFC 9112 §3.2 (Host), §6.3 (length), §9.3 (persistence); RFC 9110 §10.1.1.
    """
    host: str | None = None
    rare: dict[str, list[str]] = {}
    for name, value in noted:
        if name != "host":
            rare.setdefault(name, []).append(value)
        elif host is not None or not valid_host(value):
            raise BadRequest("A request has exactly one valid Host.")
        else:
            host = value
    if host is None and not http10:
        raise BadRequest("A request has exactly one valid Host.")
    if rare or http10:
        return _read_rare(fields, host or "", rare, http10)
    return RequestMeaning(fields, host or "")


def _read_rare(fields: Fields, host: str, rare: dict[str, list[str]], http10: bool) -> RequestMeaning:
    """What fields besides Host say about a request."""
    options = frozenset().union(*map(options_of, rare.get("connection", ())))
    named = options - NEVER_NAMED
    if named:
        fields = Fields([line for line in fields.lines if line[0] not in named])
    expects = not http10 and "expect" in rare
    if expects and (len(rare["expect"]) > 1 or rare["expect"][0].lower() != "100-continue"):
        raise ExpectationFailed
    trailers = not http10 and "te" in options and any("trailers" in options_of(value) for value in rare.get("te", ()))
    return RequestMeaning(
        fields,
        host,
        _request_length(rare.get("content-length"), rare.get("transfer-encoding"), http10),
        plain=False,
        keep_alive="close" not in options and (not http10 or "keep-alive" in options),
        expects_continue=expects,
        accepts_trailers=trailers,
        upgrade=_upgrade(rare, options) if not http10 else frozenset(),
        hops=tuple(rare.get("max-forwards", ())),
    )


def _upgrade(rare: dict[str, list[str]], options: frozenset[str]) -> frozenset[str]:
    """The members of Upgrade, where Connection says that it is meant for us."""
    return options_of(",".join(rare.get("upgrade", ()))) if "upgrade" in options else frozenset()


def apply_meaning(request: Request, meaning: RequestMeaning, *, http10: bool) -> None:
    """Note on a request what its fields mean, where that is more than its Host (RFC 9110 §7.6.2). Raises a Problem."""
    request.http10 = http10
    request.keep_alive = meaning.keep_alive
    request.expects_continue = meaning.expects_continue
    request.accepts_trailers = meaning.accepts_trailers
    if meaning.upgrade:
        request.upgrade = meaning.upgrade
    if meaning.hops and request.method in ("OPTIONS", "TRACE"):
        if len(meaning.hops) > 1 or not _MAX_FORWARDS.fullmatch(meaning.hops[0]):
            raise BadRequest("Max-Forwards is not a number.")
        request.max_forwards = int(meaning.hops[0])
    if meaning.length and request.method == "TRACE":
        raise BadRequest("A TRACE request has no body.")


def other_form(method: str, target: str, host: str) -> tuple[str, str]:
    """Target and host of the absolute-form and asterisk-form of RFC 9112 §3.2; the target's own authority wins.

    Raises BadRequest.
    """
    if target == "*":
        if method != "OPTIONS":
            raise BadRequest("Only OPTIONS may ask for *.")
        return target, host
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or not valid_host(absolute[2]):
        raise BadRequest("The request target is not valid.")
    rest = absolute[3]
    if not rest:
        rest = "*" if method == "OPTIONS" else "/"
    elif rest[0] == "?":
        rest = "/" + rest
    return rest, absolute[2]


def _request_length(lengths: list[str] | None, codings: list[str] | None, http10: bool) -> int:
    if codings is None:
        if lengths is None:
            return 0
        if len(lengths) > 1:
            raise BadRequest("A request has at most one Content-Length.")
        if not LENGTH.fullmatch(lengths[0]):
            raise BadRequest("Content-Length is not a number, or too large a one.")
        return int(lengths[0])
    if lengths is not None:
        raise BadRequest("A request has either Content-Length or Transfer-Encoding.")
    if http10:
        raise BadRequest("HTTP/1.0 has no Transfer-Encoding.")
    if len(codings) > 1 or codings[0].lower() != "chunked":
        names = [name.strip().lower() for coding in codings for name in coding.split(",")]
        if names[-1] == "chunked" and names.count("chunked") == 1 and all(map(_CODING.fullmatch, names)):
            raise NotImplementedHere("The only transfer coding understood here is chunked.")
        raise BadRequest("Transfer-Encoding is not valid.")
    return CHUNKED
