"""Response head: which bytes may begin a response, and what its fields say of what follows (RFC 9112, RFC 9110)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from gateway.headers import Field, Fields, Line
from gateway.http1.grammar import CHUNKED, HOP_BY_HOP, LENGTH, NEVER_IN_HEAD, NEVER_NAMED, UNTIL_CLOSE, options_of

STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-5]\d\d)(?: ([\t -~\x80-\xff]*+))?\r\n")
NOTABLE: Final = HOP_BY_HOP | {"content-length"}
_NO_OPTIONS: Final[frozenset[str]] = frozenset()


class Malformed(Exception):
    """An upstream's response is not valid HTTP/1.1; the text is for the log, never for the client."""


class ResponseMeaning(NamedTuple):
    """What a response's head says."""

    status: int
    reason: bytes | None
    fields: Fields
    """Those that the exchange is about."""
    length: int
    """Bytes of the body, CHUNKED or UNTIL_CLOSE."""
    keep_alive: bool
    """Whether the connection may go on afterwards."""
    http10: bool


def read_head(method: str, start: re.Match[bytes], lines: list[Line], noted: Iterable[Field]) -> ResponseMeaning:
    """What a head means that answers a `method`: `start` is its STATUS_LINE, `noted` its NOTABLE fields.

    Raises Malformed where the framing is in doubt (RFC 9112 §6.3, §9.3).
    """
    version, code, reason = start.groups()
    status, http10 = int(code), version == b"0"
    length: int | None = None
    chunked = False
    protocol = ""
    options = _NO_OPTIONS
    for name, value in noted:
        if name == "content-length":
            if length is not None or not LENGTH.fullmatch(value):
                raise Malformed("its Content-Length is repeated or not a number")
            length = int(value)
        elif name == "transfer-encoding":
            if chunked or http10 or value.lower() != "chunked":
                raise Malformed("its Transfer-Encoding is not valid here")
            chunked = True
        elif name == "connection":
            options |= options_of(value)
        elif name == "upgrade":
            protocol = value.lower()
    if status == 101 and (http10 or protocol != "websocket" or "upgrade" not in options):
        raise Malformed("it switched to a protocol that nobody asks for")
    if chunked and length is not None:
        raise Malformed("it has both Content-Length and Transfer-Encoding")
    keep_alive = "keep-alive" in options if http10 else "close" not in options
    size = _body_size(method, status, length, chunked)
    # What is announced behind a 204 may come late, and would answer the next request.
    if size == UNTIL_CLOSE or (status == 204 and (chunked or length)):
        keep_alive = False
    named = options - NEVER_NAMED if options else options
    if named:
        lines = [line for line in lines if line[0] not in named]
    return ResponseMeaning(status, reason, Fields(lines), size, keep_alive, http10)


def _body_size(method: str, status: int, length: int | None, chunked: bool) -> int:
    if method == "HEAD" or status < 200 or status in (204, 304):
        return 0
    if chunked:
        return CHUNKED
    return UNTIL_CLOSE if length is None else length


def refuse_head(head: bytes, max_head: int) -> Malformed | None:
    """Why these bytes cannot be the start of a response; None where more bytes may still mend them."""
    if len(head) > max_head:
        return Malformed("its head is too large")
    if b"\r\n\r\n" in head or NEVER_IN_HEAD.search(head) or not head.startswith(b"HTTP/1."[: len(head)]):
        return Malformed("its head is not valid")
    return None
