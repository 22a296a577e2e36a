"""Grammar: which heads are valid, where a message ends, what a request is for (RFC 9112, RFC 9110).

Two opinions are asked of every head. A gate, one regular expression each for requests and responses, says whether the
bytes are valid at all, without any of the leniency that request smuggling feeds on; llhttp (through httptools, in the
readers) then splits what passed. Everything here is a plain function of its arguments.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from gateway.exchange import Request
from gateway.problem import (
    BadRequest,
    ExpectationFailed,
    HeadTooLarge,
    NotImplementedHere,
    Problem,
    TargetTooLong,
    VersionNotSupported,
)

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_FIELD: Final = _TOKEN + rb":[\t -~\x80-\xff]*+\r\n"
REQUEST_HEAD: Final = re.compile(rb"(" + _TOKEN + rb") ([!-\[\]-~]++) HTTP/1\.([01])\r\n((?:" + _FIELD + rb")*+)\r\n")
RESPONSE_HEAD: Final = re.compile(
    rb"HTTP/1\.([01]) ([1-5]\d\d)(?: ([\t -~\x80-\xff]*+))?\r\n((?:" + _FIELD + rb")*+)\r\n"
)
_REQUEST_LINE: Final = re.compile(rb"(" + _TOKEN + rb") ([!-~]+) HTTP/(\d)\.(\d)$")
# What no valid head contains, wherever it is cut: a line feed alone, a carriage return alone, a control character.
_NEVER_IN_HEAD: Final = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# A registered name without the characters that DNS does not have and lists do: `a,b` is two hosts to some readers.
_HOST: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|(?:[\-._~0-9A-Za-z]|%[0-9A-Fa-f]{2})+)(?::(\d{0,5}))?")
_ABSOLUTE: Final = re.compile(r"(?i)(https?)://([^/?]*)(.*)")
_LENGTH: Final = re.compile(r"\d{1,18}")
_MAX_FORWARDS: Final = re.compile(r"\d{1,9}")
_FIELD_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CODING: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Fields that are meant for the next reader alone (RFC 9110 §7.6.1)."""
NOTABLE_IN_REQUESTS: Final = HOP_BY_HOP | {"host", "content-length", "expect", "max-forwards"}
NOTABLE_IN_RESPONSES: Final = HOP_BY_HOP | {"content-length"}
# Members of Connection that are no field names, and fields that no message can do without.
_NO_OPTIONS: Final[frozenset[str]] = frozenset()
_NEVER_NAMED: Final = frozenset(
    {
        "",
        "authorization",
        "close",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "host",
        "keep-alive",
        "set-cookie",
        "te",
    }
)

CRLF: Final = "\r\n"
CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2
IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})


class Malformed(Exception):
    """An upstream's response is not valid HTTP/1.1; the text is for the log, never for the client."""


def refuse_head(head: bytes, max_head: int, checked: int = 0) -> Problem | None:
    """Why these bytes, complete or not, cannot be the start of a request; None where more bytes may still mend them.

    `checked` bytes at the beginning were examined before and are not looked at again, so that a head which arrives
    byte by byte costs time in proportion to its length.
    """
    end_of_line = head.find(b"\r\n")
    if (end_of_line if end_of_line >= 0 else len(head)) > max_head:
        return TargetTooLong(f"The request line is longer than {max_head} bytes.")
    if _NEVER_IN_HEAD.search(head, max(0, checked - 1)):
        return BadRequest("The request's head contains a control character or a line that does not end in CRLF.")
    if end_of_line >= 0:
        problem = _refuse_request_line(head[:end_of_line])
        if problem is not None:
            return problem
    elif head and not _FIELD_NAME.match(head):
        return BadRequest("The request does not begin with a method.")
    if len(head) > max_head:
        return HeadTooLarge(f"The request's head is larger than {max_head} bytes.")
    if b"\r\n\r\n" in head:
        return BadRequest("A header field is not valid.")
    return None


def _refuse_request_line(line: bytes) -> Problem | None:
    match = _REQUEST_LINE.match(line)
    if match is None or b"\\" in match[2]:
        return BadRequest("The request line is not valid.")
    if match[3] != b"1" or match[4] not in b"01":
        return VersionNotSupported("This listener speaks HTTP/1.1 and HTTP/1.0.")
    return None


def read_request(request: Request, noted: Iterable[tuple[str, str]]) -> int:
    """Fill in what a request is for from its NOTABLE_IN_REQUESTS fields; its body's size in bytes, or CHUNKED.

    Raises a Problem for whatever two readers could read differently.
    Sources: RFC 9112 §3.2 (target forms, Host), §6.3 (length), §9.3 (persistence); RFC 9110 §7.6.2, §10.1.1.
    """
    host: str | None = None
    rare: dict[str, list[str]] | None = None
    for name, value in noted:
        if name != "host":
            rare = {} if rare is None else rare
            rare.setdefault(name, []).append(value)
        elif host is not None or not valid_host(value):
            raise BadRequest("A request has exactly one valid Host.")
        else:
            host = value
    if host is None and not request.http10:
        raise BadRequest("A request has exactly one valid Host.")
    request.host = host or ""
    target = request.target
    if target[0] != "/":
        request.target, request.host = _other_form(request.method, target, request.host)
    elif "#" in target:
        raise BadRequest("The request target contains a fragment.")
    request.keep_alive = not request.http10
    return 0 if rare is None else _read_rare(request, rare)


def _read_rare(request: Request, fields: dict[str, list[str]]) -> int:
    """What fields besides Host say about a request."""
    http10 = request.http10
    if "connection" in fields:
        options = frozenset().union(*map(options_of, fields["connection"]))
        request.keep_alive = "close" not in options and (not http10 or "keep-alive" in options)
        named = options - _NEVER_NAMED
        if named:
            for name in named:
                del request.headers[name]
        if "te" in options and not http10:
            request.accepts_trailers = any("trailers" in options_of(value) for value in fields.get("te", ()))
    if "expect" in fields and not http10:
        if len(fields["expect"]) > 1 or fields["expect"][0].lower() != "100-continue":
            raise ExpectationFailed
        request.expects_continue = True
    if "max-forwards" in fields and request.method in ("OPTIONS", "TRACE"):
        hops = fields["max-forwards"]
        if len(hops) > 1 or not _MAX_FORWARDS.fullmatch(hops[0]):
            raise BadRequest("Max-Forwards is not a number.")
        request.max_forwards = int(hops[0])
    length = _request_length(fields.get("content-length"), fields.get("transfer-encoding"), http10)
    if length and request.method == "TRACE":
        raise BadRequest("A TRACE request has no body.")
    return length


@lru_cache(maxsize=4096)
def valid_host(host: str) -> bool:
    """Whether this is `host` or `host:port` as RFC 3986 §3.2.2 writes them, with a port that exists."""
    match = _HOST.fullmatch(host)
    return match is not None and (not match[1] or int(match[1]) <= 65535)


def _other_form(method: str, target: str, host: str) -> tuple[str, str]:
    """Absolute-form and asterisk-form of RFC 9112 §3.2; the target's own authority wins over Host."""
    if target == "*":
        if method != "OPTIONS":
            raise BadRequest("Only OPTIONS may ask for *.")
        return target, host
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or "#" in target or not valid_host(absolute[2]):
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
        if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
            raise BadRequest("Content-Length is not a number.")
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


def read_response(
    status: int, method: str, http10: bool, noted: Iterable[tuple[str, str]]
) -> tuple[int, bool, frozenset[str]]:
    """What a response's NOTABLE_IN_RESPONSES fields say (RFC 9112 §6.3, §9.3).

    Returns bytes of body, CHUNKED or UNTIL_CLOSE; whether the connection may go on; and the fields that Connection
    names. Raises Malformed where the framing is in doubt.
    """
    length: int | None = None
    chunked = False
    options = _NO_OPTIONS
    for name, value in noted:
        if name == "content-length":
            if length is not None or not _LENGTH.fullmatch(value):
                raise Malformed("its Content-Length is repeated or not a number")
            length = int(value)
        elif name == "transfer-encoding":
            if chunked or http10 or value.lower() != "chunked":
                raise Malformed("its Transfer-Encoding is not valid here")
            chunked = True
        elif name == "connection":
            options |= options_of(value)
    if chunked and length is not None:
        raise Malformed("it has both Content-Length and Transfer-Encoding")
    keep_alive = "keep-alive" in options if http10 else "close" not in options
    if method == "HEAD" or status < 200 or status in (204, 304):
        size = 0
    elif chunked:
        size = CHUNKED
    elif length is None:
        size, keep_alive = UNTIL_CLOSE, False
    else:
        size = length
    return size, keep_alive, options - _NEVER_NAMED if options else options


def refuse_response_head(head: bytes, max_head: int) -> Malformed | None:
    """Why these bytes cannot be the start of a response; None where more bytes may still mend them."""
    if len(head) > max_head:
        return Malformed("its head is too large")
    if b"\r\n\r\n" in head or _NEVER_IN_HEAD.search(head) or not head.startswith(b"HTTP/1."[: len(head)]):
        return Malformed("its head is not valid")
    return None


@lru_cache(maxsize=1024)
def options_of(value: str) -> frozenset[str]:
    """The members of a list such as Connection's, in lower case and without parameters."""
    return frozenset(option.partition(";")[0].strip().lower() for option in value.split(","))


def chunk(data: bytes) -> bytes:
    """A piece of a body in the chunked coding (RFC 9112 §7.1); never for empty data, which would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: list[tuple[str, str]]) -> bytes:
    """The end of a chunked body, with its trailer fields."""
    if not trailers:
        return b"0\r\n\r\n"
    return f"0\r\n{''.join(f'{name}: {value}{CRLF}' for name, value in trailers)}\r\n".encode("latin-1")
