"""Response reader: an upstream's bytes become a Response, or are Malformed. No socket, no clock."""

from __future__ import annotations

from typing import Final

from gateway.body import Body, Source
from gateway.exchange import Response
from gateway.headers import Fields, Headers, LineReader
from gateway.http1.chunked import BadChunks, ChunkedDecoder
from gateway.http1.grammar import CHUNKED, FIELD_LINES, HOP_BY_HOP, UNTIL_CLOSE
from gateway.http1.response_head import NOTABLE, STATUS_LINE, Malformed, ResponseMeaning, read_head, refuse_head

MAX_INTERIM: Final = 16
"""Interim responses (1xx) that one request may bring."""
_NO_HEAD: Final = b""
_NOTHING_READ: Final = ResponseMeaning(0, None, Fields([]), 0, keep_alive=False, http10=False)
_lines: Final = LineReader(NOTABLE, HOP_BY_HOP)


class ResponseReader:
    """Reads the responses to one request after another on one connection.

    `interim` holds the 1xx responses before the response until the caller takes them; what follows a 101 is not read,
    it is `rest`. `started` says that anything arrived, `complete` that the body has ended, `reusable` that another
    request may follow on the same connection. A head that a target repeats is not read again: the last one is kept with
    its meaning.
    """

    __slots__ = (
        "_body",
        "_buffer",
        "_chunks",
        "_head",
        "_interims",
        "_left",
        "_max_head",
        "_meaning",
        "_method",
        "_source",
        "complete",
        "interim",
        "reusable",
        "started",
    )

    def __init__(self, source: Source, max_head: int) -> None:
        self._source = source
        self._max_head = max_head
        self._method = ""
        self._interims = 0
        self._head = _NO_HEAD
        self._meaning = _NOTHING_READ
        self.interim: list[tuple[int, list[tuple[str, str]]]] = []
        self._rewind()
        self.started = self.complete = self.reusable = False

    def begin(self, method: str) -> None:
        """A request goes out: what arrives from now on answers it."""
        self._interims = 0
        if method != self._method:
            self._method = method
            self._head = _NO_HEAD  # the same head may mean another length now
        if self._body is not None:
            self._rewind()
        self.started = self.complete = self.reusable = False

    def _rewind(self) -> None:
        self._buffer = b""
        self._body: Body | None = None
        self._chunks: ChunkedDecoder | None = None
        self._left = 0

    def feed(self, data: bytes) -> Response | None:
        """Bytes arrived; the response, if they completed its head: its body is bytes if it all came, else a Body.

        Raises Malformed; bytes after the end make the connection not reusable.
        """
        self.started = True
        if self._body is not None:
            self._read_body(self._body, data)
            return None
        if self._buffer:
            data, self._buffer = self._buffer + data, b""
        if self._head and data.startswith(self._head):
            end = len(self._head)
        else:
            end = self._read_head(data)
            if not end:
                return None
        status, reason, fields, length, keep_alive, http10 = self._meaning
        if status < 200:
            return self._keep_interim(self._meaning, data[end:])
        response = Response(status, Headers(fields), b"", reason)
        response.proxied = True
        if http10:
            response.http10 = True
        self.reusable = keep_alive
        if end + length == len(data) and length >= 0:  # the usual case needs no Body: all of it is here
            response.body = data[end:]
            self.complete = True
        else:
            self._begin_body(response, length, data[end:])
        return response

    def _read_head(self, data: bytes) -> int:
        """Where the head ends, which is then known by its meaning; 0 if more must arrive first. Raises Malformed."""
        start = STATUS_LINE.match(data)
        block = FIELD_LINES.match(data, start.end()) if start is not None else None
        if start is None or block is None or block.end() > self._max_head:
            refusal = refuse_head(data, self._max_head) if data else None
            if refusal is not None:
                raise refusal
            self._buffer = data
            return 0
        self._head = _NO_HEAD
        lines, noted = _lines.split(block[1])
        self._meaning = read_head(self._method, start, lines, noted)
        self._head = data[: block.end()]
        return block.end()

    @property
    def rest(self) -> bytes:
        """What came behind a 101, in whatever protocol that is."""
        return self._buffer

    def eof(self) -> bool:
        """The connection ended; True if that is the proper end of the body."""
        if self._left == UNTIL_CLOSE and self._body is not None and not self.complete:
            self._finish(self._body)
        return self.complete

    def _keep_interim(self, meaning: ResponseMeaning, rest: bytes) -> Response | None:
        fields = Headers(meaning.fields)
        del fields["content-length"]  # it has no body, whatever it says (RFC 9110 §8.6)
        self.interim.append((meaning.status, list(fields.items())))
        self._interims += 1
        if meaning.http10 or self._interims > MAX_INTERIM:
            raise Malformed("it sent interim responses without end")
        if meaning.status == 101:  # the last thing it says in HTTP
            self._buffer = rest
            return None
        return self.feed(rest) if rest else None

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
            self.reusable = self.reusable and not self._chunks.rest
        else:
            if len(data) > self._left:
                data = data[: self._left]
                self.reusable = False
            self._left -= len(data)
            self.complete = self._left == 0
            body.feed(data, self.complete)

    def _finish(self, body: Body) -> None:
        self.complete = True
        body.finish()
