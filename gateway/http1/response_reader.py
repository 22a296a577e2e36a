"""Response reader: an upstream's bytes become a Response, or are Malformed. No socket, no clock."""

from __future__ import annotations

from typing import Final

from gateway.body import Body, Source
from gateway.exchange import Request, Response
from gateway.headers import NO_BLOCK, Headers, LineReader
from gateway.http1.chunked import BadChunks, ChunkedDecoder
from gateway.http1.grammar import (
    CHUNKED,
    HOP_BY_HOP,
    NOTABLE_IN_RESPONSES,
    RESPONSE_HEAD,
    UNTIL_CLOSE,
    Malformed,
    read_response,
    refuse_response_head,
)

MAX_INTERIM: Final = 16
"""Interim responses (1xx) that one request may bring."""
_lines: Final = LineReader(NOTABLE_IN_RESPONSES, HOP_BY_HOP)


class ResponseReader:
    """Reads the responses to one request after another on one connection.

    `response` is there once its head is; its body is bytes if it all came with the head, else a Body that fills.
    `interim` holds the 1xx responses before it until the caller takes them. `started` says that anything arrived,
    `complete` that the body has ended, `reusable` that another request may follow on the same connection.
    """

    __slots__ = (
        "_block",
        "_body",
        "_buffer",
        "_chunks",
        "_left",
        "_max_head",
        "_method",
        "_source",
        "complete",
        "interim",
        "response",
        "reusable",
        "started",
    )

    def __init__(self, source: Source, max_head: int) -> None:
        self._source = source
        self._block = NO_BLOCK
        self._max_head = max_head
        self.interim: list[tuple[int, list[tuple[str, str]]]] = []

    def begin(self, request: Request) -> None:
        """A request goes out: what arrives from now on answers it."""
        self._method = request.method
        self._buffer = b""
        self._body: Body | None = None
        self._chunks: ChunkedDecoder | None = None
        self._left = 0
        self.response: Response | None = None
        self.started = self.complete = self.reusable = False

    def feed(self, data: bytes) -> None:
        """Bytes arrived. Raises Malformed; bytes after the end make the connection not reusable."""
        self.started = True
        if self._body is not None:
            self._read_body(self._body, data)
            return
        if self._buffer:
            data = self._buffer + data
        while (head := RESPONSE_HEAD.match(data)) is not None and head.end() <= self._max_head:
            version, code, reason, fields = head.groups()
            status = int(code)
            if fields != self._block[0]:
                self._block = _lines.split(fields)
            _, lines, noted = self._block
            http10 = version == b"0"
            length, keep_alive, named = read_response(status, self._method, http10, noted)
            if named:
                lines = [line for line in lines if line[0] not in named]
            end = head.end()
            if status >= 200:
                self.reusable = keep_alive
                response = self.response = Response(status, Headers.of_lines(lines), b"", reason)
                response.proxied = True
                if end + length == len(data) and length >= 0:  # the usual case needs no Body: all of it is here
                    response.body = data[end:]
                    self.complete = True
                else:
                    self._begin_body(response, length, data[end:])
                return
            self._keep_interim(status, Headers.of_lines(lines), http10)
            data = data[end:]
        self._buffer = data
        refusal = refuse_response_head(data, self._max_head) if data else None
        if refusal is not None:
            raise refusal

    def eof(self) -> bool:
        """The connection ended; True if that is the proper end of the body."""
        if self._left == UNTIL_CLOSE and self._body is not None and not self.complete:
            self._finish(self._body)
        return self.complete

    def _keep_interim(self, status: int, headers: Headers, http10: bool) -> None:
        if status == 101:
            raise Malformed("it switched protocols unasked")
        self.interim.append((status, list(headers.items())))
        if http10 or len(self.interim) > MAX_INTERIM:
            raise Malformed("it sent interim responses without end")

    def _begin_body(self, response: Response, length: int, data: bytes) -> None:
        if 0 <= length < len(data):
            response.body = data[:length]
            self.complete = True
            self.reusable = False
            return
        self._left = length
        body = self._body = response.body = Body(self._source, None if length in (CHUNKED, UNTIL_CLOSE) else length)
        if length == CHUNKED:
            self._chunks = ChunkedDecoder(body)
        if data:
            self._read_body(body, data)

    def _read_body(self, body: Body, data: bytes) -> None:
        if self._left == UNTIL_CLOSE:
            body.feed(data)
        elif self._chunks is not None:
            try:
                self._chunks.feed(data)
            except BadChunks as error:
                raise Malformed("its chunks are not valid") from error
            self.complete = body.complete
            self.reusable = self.reusable and not self._chunks.surplus
        else:
            if len(data) > self._left:
                data = data[: self._left]
                self.reusable = False
            self._left -= len(data)
            body.feed(data)
            if self._left == 0:
                self._finish(body)

    def _finish(self, body: Body) -> None:
        self.complete = True
        body.finish()
