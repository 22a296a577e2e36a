"""Chunked: the decoder of chunked bodies (RFC 9112 §7.1)."""

from __future__ import annotations

import re
from typing import Final

from gateway.body import Body
from gateway.http1.grammar import FIELD_LINES, TOKEN

MAX_OVERHEAD: Final = 64 * 1024
"""Bytes that the coding may take in all, beside what the chunks themselves need."""
MAX_LINE: Final = 4 * 1024
"""Bytes of a line that begins a chunk, with its extensions."""
MAX_TRAILERS: Final = 16 * 1024
"""Bytes of the trailer fields."""

_QUOTED: Final = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_EXTENSIONS: Final = rb"(?:;%b(?:=(?:%b|%b))?)*" % (TOKEN, TOKEN, _QUOTED)
# Fifteen digits are more bytes than anybody sends, and overflow no number that the next reader keeps them in.
_SIZE: Final = re.compile(rb"(?=[0-9A-Fa-f])0*+([1-9A-Fa-f][0-9A-Fa-f]{0,14}+)?" + _EXTENSIONS)
_PART_OF_SIZE: Final = re.compile(rb"[0-9A-Fa-f]*+(?:;[\t -~\x80-\xff]*+)?\r?")
"""What may become the line that begins a chunk when more arrives."""
_PART_OF_CRLF: Final = re.compile(rb"\r?")
_PART_OF_TRAILERS: Final = re.compile(rb"(?:[^\x00-\x08\n-\x1f\x7f]++|\r\n|\r\Z)*")
_CRLF: Final = b"\r\n"
_FRAMING: Final = frozenset({"content-length", "transfer-encoding"})
"""Fields that would have somebody read the body otherwise; as trailers they are an attack or a mistake."""


class BadChunks(Exception):
    """The body is not in the chunked coding, or wastes too many bytes on it."""


class _Sizes(dict[bytes, int]):
    """What the lines that begin chunks say. The short ones repeat: they are remembered, up to 4,096 of them."""

    def __missing__(self, line: bytes) -> int:
        match = _SIZE.fullmatch(line)
        if match is None or len(line) > MAX_LINE:
            raise BadChunks
        size = int(match[1] or b"0", 16)
        if len(line) <= 8:
            if len(self) >= 4096:
                self.clear()
            self[line] = size
        return size


_sizes: Final = _Sizes()


class ChunkedDecoder:
    """Feeds a body with what its chunks contain, and finishes it at the last one.

    `rest` is what came behind the end; whose it is, the owner decides.
    """

    __slots__ = ("_body", "_fed", "_in_trailers", "_kept", "_left", "_open", "_valid", "rest")

    def __init__(self, body: Body) -> None:
        self._body = body
        self._fed = 0
        self._kept = b""  # the beginning of a line
        self._open = False  # a chunk is arriving, or the CRLF behind it
        self._left = 0  # of its bytes
        self._in_trailers = False
        self._valid = True
        self.rest = b""

    def feed(self, data: bytes) -> None:
        """Encoded bytes arrived. Raises BadChunks, and does so ever after."""
        if not self._valid:
            raise BadChunks
        self._valid = False  # unless all of this is
        self._fed += len(data)
        if self._kept:
            data, self._kept = self._kept + data, b""
        self._read(data)
        if self._wasteful():
            raise BadChunks
        self._valid = True

    def _wasteful(self) -> bool:
        """Whether far more bytes went into the coding than chunks of a byte each would need."""
        received = self._body.received
        return self._fed - len(self.rest) - received > MAX_OVERHEAD + 8 * received

    def _read(self, data: bytes) -> None:
        at, body = 0, self._body
        while not self._in_trailers:
            if self._open:
                end = at + self._left
                if not data.startswith(_CRLF, end):
                    self._read_part(data, at, end)
                    return
                if at < end:
                    body.feed(data[at:end])
                at = end + 2
                self._open = False
                if at == len(data):
                    return
            end = data.find(_CRLF, at)
            if end < 0:
                self._keep(data[at:], MAX_LINE + 1, _PART_OF_SIZE)
                return
            size = self._left = _sizes[data[at:end]]
            if size:
                self._open = True
            else:
                self._in_trailers = True
            at = end + 2
        self._read_trailers(data, at)

    def _read_part(self, data: bytes, at: int, end: int) -> None:
        """A chunk that is not all here, or lacks its CRLF."""
        piece = data[at:end]
        if piece:
            self._left -= len(piece)
            self._body.feed(piece)
        self._keep(data[end:], 2, _PART_OF_CRLF)

    def _read_trailers(self, data: bytes, at: int) -> None:
        """The fields behind the last chunk, and the empty line that ends the body."""
        if not data.startswith(_CRLF, at) and data.find(b"\r\n\r\n", at) < 0:
            self._keep(data[at:], MAX_TRAILERS, _PART_OF_TRAILERS)
            return
        block = FIELD_LINES.match(data, at)
        if block is None or len(block[0]) > MAX_TRAILERS:
            raise BadChunks
        trailers = list(map(_field, block[1].split(_CRLF)[:-1]))
        self.rest = data[block.end() :]
        if self._wasteful() or any(name.lower() in _FRAMING for name, _ in trailers):
            raise BadChunks
        self._body.trailers.extend(trailers)
        self._body.finish()

    def _keep(self, part: bytes, most: int, form: re.Pattern[bytes]) -> None:
        """Wait for the rest of what can become a line."""
        if len(part) > most or not form.fullmatch(part):
            raise BadChunks
        self._kept = part


def _field(line: bytes) -> tuple[str, str]:
    name, _, value = line.partition(b":")
    return name.decode("ascii"), value.strip(b" \t").decode("latin-1")
