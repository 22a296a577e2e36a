"""Coding: the content codings that the gateway can write and read (RFC 9110 §8.4.1): gzip, br and zstd.

The library of gzip comes with Python; those of br and zstd are installed with `tallygate[compress]`, and loaded when
one of the two is first needed: each takes a megabyte or more of a process.
"""

from __future__ import annotations

import importlib
import sys
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, Protocol, TypeAlias

from gateway.exchange import Exchange, Note

Coding: TypeAlias = Literal["gzip", "br", "zstd"]

_LIBRARIES: Final[Mapping[str, str]] = {
    "br": "brotli",
    "zstd": "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd",
}
# With these a stream costs 0.25 MiB (gzip), 0.9 MiB (br) or 0.4 MiB (zstd), and text gets about a third of its length.
_GZIP_LEVEL: Final = 4
_BROTLI: Final = {"quality": 4, "lgwin": 18}
_ZSTD: Final = {"compression_level": 3, "window_log": 17, "hash_log": 14, "chain_log": 14}
_ZSTD_LARGEST_WINDOW: Final = 23
"""8 MiB, the largest window that a content coding may ask of its reader (RFC 9659 §3)."""

ACCEPTED: Final = Note[str]()
"""What the client accepts, where the upstream is asked for something else."""


class CodingUnavailable(ImportError):
    """The library of a coding is not installed; the text says how to get it."""


class Encoder(Protocol):
    """One body on its way into a coding."""

    def encode(self, data: bytes, last: bool) -> bytes:
        """A piece of the body, encoded so that the reader can decode all of it at once."""


def encoder(coding: Coding) -> Callable[[], Encoder]:
    """What makes an Encoder for each body. Raises CodingUnavailable."""
    if coding == "gzip":
        return _Gzip
    library = _library(coding)
    if coding == "br":
        return lambda: _Brotli(library)
    options = {getattr(library.CompressionParameter, name): value for name, value in _ZSTD.items()}
    return lambda: _Zstd(library, options)


def accepted(exchange: Exchange) -> str:
    """The Accept-Encoding of the client, whatever the upstream is asked for."""
    asked = exchange.get(ACCEPTED)
    return asked if asked is not None else ",".join(exchange.request.headers.getall("accept-encoding"))


def ask_upstream_for(exchange: Exchange, coding: str) -> None:
    """Has the upstream answer in this coding; what we encode ourselves still goes by what the client accepts."""
    exchange[ACCEPTED] = accepted(exchange)
    exchange.request.headers["Accept-Encoding"] = coding


def decoded(coding: str, data: bytes, limit: int) -> bytes | None:
    """A whole body of at most `limit` bytes out of its coding; None if that cannot be done, whatever the reason."""
    if coding == "identity":
        return data
    try:
        if coding in ("gzip", "x-gzip"):
            return _inflated(data, limit, 31)
        if coding == "deflate":  # meant is zlib's format; some send it without its head and end
            return _inflated(data, limit, 15) or _inflated(data, limit, -15)
        if coding == "br":
            decoder = _library("br").Decompressor()
            body: bytes = decoder.process(data, output_buffer_limit=limit)
            return body if decoder.is_finished() else None
        if coding == "zstd":
            zstd = _library("zstd")
            parameter = zstd.DecompressionParameter.window_log_max
            decoder = zstd.ZstdDecompressor(options={parameter: _ZSTD_LARGEST_WINDOW})
            body = decoder.decompress(data, max_length=limit)
            return body if decoder.eof else None
    except Exception:  # noqa: BLE001 - each library has errors of its own, and a missing one is no different here
        return None
    return None


def _inflated(data: bytes, limit: int, window: int) -> bytes | None:
    inflate = zlib.decompressobj(window)
    try:
        body = inflate.decompress(data, limit)
    except zlib.error:
        return None
    return body if inflate.eof else None


def _library(coding: str) -> Any:
    name = _LIBRARIES[coding]
    try:
        return importlib.import_module(name)
    except ImportError:
        raise CodingUnavailable(
            f"{coding} needs a library that is not installed (pip install 'tallygate[compress]')"
        ) from None


class _Gzip:
    __slots__ = ("_stream",)

    def __init__(self) -> None:
        self._stream = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, 31)

    def encode(self, data: bytes, last: bool) -> bytes:
        return self._stream.compress(data) + self._stream.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)


class _Brotli:
    __slots__ = ("_stream",)

    def __init__(self, library: Any) -> None:
        self._stream = library.Compressor(**_BROTLI)

    def encode(self, data: bytes, last: bool) -> bytes:
        stream = self._stream
        return stream.process(data) + (stream.finish() if last else stream.flush())  # type: ignore[no-any-return]


class _Zstd:
    __slots__ = ("_stream",)

    def __init__(self, library: Any, options: Mapping[Any, int]) -> None:
        self._stream = library.ZstdCompressor(options=options)

    def encode(self, data: bytes, last: bool) -> bytes:
        stream = self._stream
        return stream.compress(data, stream.FLUSH_FRAME if last else stream.FLUSH_BLOCK)  # type: ignore[no-any-return]
