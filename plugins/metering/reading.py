"""Reading: the number that a response's JSON holds at a path, be it whole, compressed or a stream of events."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from gateway.coding import decoded
from gateway.exchange import STREAMS
from gateway.headers import Headers
from gateway.json_path import Steps, value_at

TAIL: Final = 64 * 1024
"""Bytes kept of a stream: what a stream says about its cost it says in one of its last events."""
LARGEST_QUANTITY: Final = 2**53
"""Beyond it JSON numbers are not exact; nobody's usage is that large."""

_decode: Final = msgspec.json.Decoder().decode
_JSON: Final = re.compile(r"application/(?:[\w.+-]+\+)?json$|text/json$")


class JsonReading:
    """Gathers a response's body on its way out; `limit` is the bytes of a document, before and after inflation."""

    __slots__ = ("_coding", "_gathered", "_is_json", "_limit", "_streams", "_too_large")

    def __init__(self, headers: Headers, limit: int) -> None:
        media_type = (headers.get("content-type") or "").partition(";")[0].strip().lower()
        self._coding = (headers.get("content-encoding") or "identity").strip().lower()
        self._streams = media_type in STREAMS
        self._is_json = self._streams or _JSON.match(media_type) is not None
        self._gathered = bytearray()
        self._limit = TAIL if self._streams and self._coding == "identity" else limit
        self._too_large = False

    def add(self, chunk: bytes) -> None:
        """A piece of the body."""
        if not self._is_json or self._too_large:
            return
        self._gathered += chunk
        if len(self._gathered) > self._limit:
            if self._streams and self._coding == "identity":
                del self._gathered[: -self._limit]
            else:
                self._too_large = True
                self._gathered.clear()

    def number_at(self, path: Steps) -> int | None:
        """The whole, not negative number at this path, in the last event of a stream that has one; None without."""
        if not self._is_json or self._too_large:
            return None
        body = decoded(self._coding, bytes(self._gathered), self._limit)
        if body is None:
            return None
        for document in _last_events_first(body) if self._streams else [body]:
            try:
                number = whole_number(value_at(_decoded(document), path))
            except (ValueError, RecursionError):
                continue
            if number is not None:
                return number
        return None


def _decoded(document: bytes) -> Any:
    """Raises ValueError, RecursionError."""
    try:
        return _decode(document)
    except msgspec.DecodeError:
        # Half of a character, as a model may leave behind where it is cut off, spoils nothing else for json.
        return json.loads(document.decode(), parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _last_events_first(body: bytes) -> Iterator[bytes]:
    """The documents of a stream: lines, or what the data lines of an event are together (WHATWG HTML §9.2.6)."""
    event: list[bytes] = []
    for line in reversed((b"\n" + body).splitlines()):
        document = line.removeprefix(b"data:").strip(b" \t\x1e")
        if document.startswith((b"{", b"[")):
            yield document
        if line.startswith(b"data:"):
            event.append(document)
        elif not line and len(event) > 1:
            yield b"\n".join(reversed(event))
        if not line:
            event.clear()


def whole_number(value: Any) -> int | None:
    """A quantity: a whole number that is not negative and not absurd; None for anything else, True and 1.5 included."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST_QUANTITY:
        return None
    return value
