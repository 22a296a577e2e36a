"""Request reader: a client's bytes become Requests, one at a time, or a Problem. No socket, no clock."""

from __future__ import annotations

from typing import Final

from gateway.body import NO_BODY, Body, Source
from gateway.exchange import Request
from gateway.headers import NO_BLOCK, Headers, LineReader
from gateway.http1.chunked import BadChunks, ChunkedDecoder
from gateway.http1.grammar import (
    CHUNKED,
    HOP_BY_HOP,
    NOTABLE_IN_REQUESTS,
    REQUEST_HEAD,
    read_request,
    refuse_head,
)
from gateway.problem import BadRequest, NotImplementedHere

_lines: Final = LineReader(NOTABLE_IN_REQUESTS, HOP_BY_HOP)


class RequestReader:
    """Reads one request after another from one connection.

    After `feed` or `resume` returned a request, its body fills as bytes are fed. Once it is `complete`, further bytes
    wait in a buffer of `pending` bytes until `resume` asks for the next request. `waiting` says that no request is
    under way, `reusable` that another may follow.
    """

    __slots__ = (
        "_block",
        "_body",
        "_buffer",
        "_checked",
        "_chunks",
        "_left",
        "_max_head",
        "_source",
        "complete",
        "reusable",
        "waiting",
    )

    def __init__(self, source: Source, max_head: int) -> None:
        self._source = source
        self._block = NO_BLOCK
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
        """Bytes that arrived and belong to no request yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Request | None:
        """Bytes arrived; a request, if they completed its head. Raises a Problem if the head is not valid.

        A body that is not valid fails, with a BadRequest.
        """
        if self.waiting:
            return self._read_head(self._buffer + data if self._buffer else data)
        if self.complete:
            self._buffer += data
        else:
            self._read_body(data)
        return None

    def resume(self) -> Request | None:
        """The request before has been answered: look for the next in what arrived meanwhile."""
        self.waiting = True
        return self._read_head(self._buffer) if self._buffer else None

    def _read_head(self, data: bytes) -> Request | None:
        if data[:2] == b"\r\n":
            data = data[2:]  # an empty line before a request line is passed over (RFC 9112 §2.2)
        head = REQUEST_HEAD.match(data)
        if head is None or head.end() > self._max_head:
            problem = refuse_head(data, self._max_head, self._checked)
            if problem is not None:
                raise problem
            self._buffer = data
            self._checked = len(data)
            return None
        end = head.end()
        method, target, version, fields = head.groups()
        if fields != self._block[0]:
            self._block = _lines.split(fields)
        _, lines, noted = self._block
        request = Request(method.decode("ascii"), target.decode("ascii"), Headers.of_lines(lines))
        request.http10 = version == b"0"
        if request.method == "CONNECT":
            raise NotImplementedHere("This gateway opens no tunnels.")
        length = read_request(request, noted)
        self.waiting = False
        self._checked = 0
        rest = data[end:] if end < len(data) else b""
        if length == 0:
            self._buffer = rest
        else:
            request.body = Body(self._source, None if length == CHUNKED else length)
            self._begin_body(request.body, length, rest)
        return request

    def _begin_body(self, body: Body, length: int, rest: bytes) -> None:
        self.complete = False
        self._buffer = b""
        self._body = body
        self._left = length
        self._chunks = ChunkedDecoder(body) if length == CHUNKED else None
        if rest:
            self._read_body(rest)

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
            if chunks.surplus:
                self.reusable = False  # bytes right behind a chunked body would escape the gate
        if body.complete:
            self.complete = True
            self._body = NO_BODY
            self._chunks = None
