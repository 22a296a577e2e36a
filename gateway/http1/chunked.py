"""Chunked: the decoder of chunked bodies (RFC 9112 §7.1), by llhttp through httptools."""

from __future__ import annotations

from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from gateway.body import Body
from gateway.headers import valid_field

MAX_OVERHEAD: Final = 64 * 1024
"""Bytes that chunk extensions and trailer fields may take, beside what the chunks themselves need."""

_PIECE: Final = 16 * 1024
"""Decoded at a time. llhttp does not tell where the body ended, so up to this much behind the end counts as coding."""


class BadChunks(Exception):
    """The body is not in the chunked coding, or wastes too many bytes on it."""


class ChunkedDecoder:
    """Feeds a body with what its chunks contain, and finishes it at the last one.

    `surplus` says that bytes came after the end; whose they are is for the owner to decide.
    """

    __slots__ = ("_began", "_body", "_fed", "_parser", "_trailers", "_valid", "surplus")

    def __init__(self, body: Body) -> None:
        self._body = body
        self._fed = 0
        self._trailers: list[tuple[str, str]] = []
        self._valid = True
        self._began = False
        self.surplus = False
        # llhttp reads messages, not bodies: it is told that one begins.
        self._parser = HttpRequestParser(self)
        self._parser.feed_data(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        self._began = True

    def feed(self, data: bytes) -> None:
        """Encoded bytes arrived. Raises BadChunks, and does so ever after."""
        if len(data) <= _PIECE:
            self._feed(data)
            return
        for place in range(0, len(data), _PIECE):
            if self._body.complete:
                self.surplus = True
                return
            self._feed(data[place : place + _PIECE])

    def _feed(self, data: bytes) -> None:
        self._fed += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if not self._body.complete:
                self._valid = False
                raise BadChunks from error
            self.surplus = True
        if not self._body.complete:
            self._valid = self._valid and not self._wasteful()
            if not self._valid:
                raise BadChunks

    def _wasteful(self) -> bool:
        """Whether far more bytes went into the coding than chunks of a byte each would need."""
        received = self._body.received
        return self._fed - received > MAX_OVERHEAD + 8 * received

    # What llhttp calls

    def on_message_begin(self) -> None:
        if self._body.complete:
            self.surplus = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._began or self._body.complete:
            return  # of the head that we wrote ourselves, or of what came after the end
        field = name.decode("latin-1"), value.decode("latin-1")
        if valid_field(*field):
            self._trailers.append(field)
        else:
            self._valid = False

    def on_body(self, data: bytes) -> None:
        if not self._body.complete:
            self._body.feed(data)

    def on_message_complete(self) -> None:
        if not self._body.complete and self._valid and not self._wasteful():
            self._body.trailers.extend(self._trailers)  # those of a body that breaks off mean nothing
            self._body.finish()
