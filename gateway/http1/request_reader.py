"""Request reader: a client's bytes become Requests, one at a time, or a Problem. No socket, no clock."""

from __future__ import annotations

import re
from typing import Final

from gateway.body import NO_BODY, Body, Source
from gateway.exchange import Request
from gateway.headers import Fields, Headers, LineReader
from gateway.http1.chunked import BadChunks, ChunkedDecoder
from gateway.http1.grammar import CHUNKED, FIELD_LINES, HOP_BY_HOP
from gateway.http1.request_head import (
    NOTABLE,
    REQUEST_LINE,
    RequestMeaning,
    apply_meaning,
    other_form,
    read_request_fields,
    refuse_head,
)
from gateway.problem import BadRequest, NotImplementedHere

_lines: Final = LineReader(NOTABLE, HOP_BY_HOP)
_NOTHING_READ: Final = RequestMeaning(Fields([]), "")
_NOTHING: Final = (b"", b"\r", b"\r\n")
_NO_BLOCK: Final = b"\n"
"""What no fields begin with."""


class RequestReader:
    """Reads one request after another from one connection.

    After `feed` or `resume` returned a request, its body fills as bytes are fed. Once it is `complete`, further bytes
    wait in a buffer of `pending` bytes until `resume` asks for the next request. `waiting` says that no request is
    under way, `reusable` that another may follow. Fields that a client repeats are not read again: the last block of
    them is kept with its meaning.
    """

    __slots__ = (
        "_block",
        "_body",
        "_buffer",
        "_checked",
        "_chunks",
        "_left",
        "_max_head",
        "_meaning",
        "_source",
        "_version",
        "complete",
        "reusable",
        "waiting",
    )

    def __init__(self, source: Source, max_head: int) -> None:
        self._source = source
        self._block = _NO_BLOCK
        self._version = b""
        self._meaning = _NOTHING_READ
        self._max_head = max_head
        self._buffer = b""
        self._checked = 0
        self._body: Body = NO_BODY
        self._chunks: ChunkedDecoder | None = None
        self._left = 0
        self.waiting = True
        self.complete = True
        self.reusable = True

    @property
    def pending(self) -> int:
        """Bytes that arrived and belong to no request yet; an empty line may come before one and counts for nothing."""
        return 0 if self._buffer in _NOTHING else len(self._buffer)

    def feed(self, data: bytes) -> Request | None:
        """Bytes arrived; a request, if they completed its head. Raises a Problem if the head is not valid.

        A body that is not valid fails, with a BadRequest.
        """
        if not self.waiting:
            self._feed_body(data)
            return None
        if self._buffer:
            data = self._buffer + data
        start = REQUEST_LINE.match(data)
        if start is None:
            return self._wait(data)
        method, target, version = start.groups()
        end = start.end()
        if version == self._version and data.startswith(self._block, end):
            end += len(self._block)
        else:
            block = FIELD_LINES.match(data, end)
            if block is None:
                return self._wait(data)
            self._read_block(block, version)
            end = block.end()
        if end > self._max_head:
            return self._wait(data)
        return self._begin(method.decode("ascii"), target.decode("ascii"), data[end:] if end < len(data) else b"")

    def resume(self) -> Request | None:
        """The request before has been answered: look for the next in what arrived meanwhile."""
        self.waiting = True
        return self.feed(b"") if self._buffer else None

    def take_rest(self) -> bytes:
        """What arrived behind the request: it is in another protocol."""
        rest, self._buffer = self._buffer, b""
        return rest

    def _wait(self, data: bytes) -> Request | None:
        """This is no whole head: keep it until more arrives. Raises a Problem if nothing that follows could mend it."""
        if data[:2] == b"\r\n" and data[2:3] not in (b"", b"\r"):
            # One empty line before a request is passed over (RFC 9112 §2.2), once it is known to be one.
            self._buffer = b""
            self._checked = 0
            return self.feed(data[2:])
        problem = refuse_head(data, self._max_head, self._checked)
        if problem is not None and data not in _NOTHING:
            raise problem
        self._buffer = data
        self._checked = len(data)
        return None

    def _read_block(self, block: re.Match[bytes], version: bytes) -> None:
        self._version = b""  # what was known is not, should this raise
        lines, noted = _lines.split(block[1])
        self._meaning = read_request_fields(Fields(lines), noted, http10=version == b"0")
        self._block, self._version = block[0], version

    def _begin(self, method: str, target: str, rest: bytes) -> Request:
        meaning = self._meaning
        request = Request(method, target, Headers(meaning.fields))
        request.host = meaning.host
        if target[0] != "/" or method == "CONNECT":
            if method == "CONNECT":
                raise NotImplementedHere("This gateway opens no tunnels.")
            request.target, request.host = other_form(method, target, meaning.host)
        if not meaning.plain:
            apply_meaning(request, meaning, http10=self._version == b"0")
        self.waiting = False
        self._checked = 0
        self._buffer = rest
        if meaning.length:
            request.body = Body(self._source, None if meaning.length == CHUNKED else meaning.length)
            self._begin_body(request.body, meaning.length, rest)
        return request

    def _begin_body(self, body: Body, length: int, rest: bytes) -> None:
        self.complete = False
        self._buffer = b""
        self._body = body
        self._left = length
        self._chunks = ChunkedDecoder(body) if length == CHUNKED else None
        if rest:
            self._read_body(rest)

    def _feed_body(self, data: bytes) -> None:
        if self.complete:
            self._buffer += data
        else:
            self._read_body(data)

    def _read_body(self, data: bytes) -> None:
        body, chunks = self._body, self._chunks
        if chunks is None:
            if len(data) > self._left:
                data, self._buffer = data[: self._left], data[self._left :]
            self._left -= len(data)
            body.feed(data)
            if self._left == 0:
                body.finish()
        else:
            try:
                chunks.feed(data)
            except BadChunks:
                self.reusable = False
                body.fail(BadRequest("The request's body is not valid."))
            self._buffer = chunks.rest
        if body.complete:
            self.complete = True
            self._body = NO_BODY
            self._chunks = None
