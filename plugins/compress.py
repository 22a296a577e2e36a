"""Compress answers for clients that can read it: gzip, br or zstd, whichever they like best (RFC 9110 §12.5.3)."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from gateway.body import Body
from gateway.coding import Coding, CodingUnavailable, Encoder, accepted, encoder
from gateway.exchange import Exchange, Note, Response
from gateway.headers import Headers, vary
from gateway.options import Size
from gateway.plugin import Plugin, PluginConfig
from gateway.services import Services

MOST_REMEMBERED: Final = 1024
"""Values of Accept-Encoding whose choice is remembered."""
LONGEST_REMEMBERED: Final = 256
"""Characters of such a value."""
_MEMBER: Final = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)(?:\s*;\s*[qQ]=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?))?")
# No body, or (206) ranges of the bytes as they are.
_AS_IT_IS: Final = frozenset({204, 205, 206, 304})
# Fields that speak of the very bytes of the body: whoever sends them means those bytes (RFC 9110 §8.4, RFC 9530).
_OF_THE_BYTES: Final = ("content-encoding", "content-range", "content-digest", "repr-digest", "digest", "content-md5")
ENCODED: Final = Note[tuple[Response, Encoder]]()
"""The response that is being encoded, and what encodes it."""
STREAMS: Final = Note[bool]()
"""It is one of those that are encoded while they arrive."""


def _available(coding: Coding) -> Coding:
    try:
        encoder(coding)
    except CodingUnavailable as error:
        raise ValueError(str(error)) from None
    return coding


class Config(PluginConfig):
    """What is compressed, and how."""

    encodings: list[Annotated[Coding, AfterValidator(_available)]] = Field(default=["gzip"], min_length=1)
    """`zstd`, `br`, `gzip`; of those a client likes equally the first is taken. zstd costs least time for its ratio."""
    min_size: Size = Field(default=1024, ge=1)
    """Smaller bodies are sent as they are."""
    types: list[Annotated[str, Field(pattern=r"^[a-z0-9.+*-]+/[a-z0-9.+*-]+$")]] = [
        "text/*",
        "application/json",
        "application/*+json",
        "application/javascript",
        "application/xml",
        "application/*+xml",
        "application/x-ndjson",
        "application/wasm",
        "image/svg+xml",
    ]
    """Media types worth it; `*` stands for any letters. Event streams (`text/event-stream`) are never compressed."""
    max_streams: int = Field(default=128, ge=0)
    """Bodies that one process compresses while they arrive, for up to 1MiB of memory each; more go as they are."""


class Compress(Plugin[Config]):
    """Compresses answers with what the client accepts; usage is counted as it is sent, wherever this is listed.

    Each piece of a body that streams leaves as soon as it is there, and can be read at once. What is encoded already,
    is a part (206), or says `no-transform` stays as it is. A body that mixes secrets with what a stranger put into the
    request gives them away by its size (BREACH): leave such routes out.
    """

    def __init__(self, config: Config, services: Services) -> None:
        super().__init__(config, services)
        self._encoders = {coding: encoder(coding) for coding in config.encodings}
        self._min_size = config.min_size
        self._types = re.compile("|".join(re.escape(kind).replace(r"\*", "[^/]*") for kind in config.types))
        self._remembered_choice = lru_cache(MOST_REMEMBERED)(self._choice)
        self._prepare_it = self._prepare  # bound once: `Headers.once` knows it again
        self._most_streams = config.max_streams
        metrics = services.metrics
        self._streams = metrics.gauge("tallygate_compress_streams", "Bodies that are compressed while they arrive.")
        self._refused = metrics.counter(
            "tallygate_compress_streams_refused_total", "Bodies sent as they are because too many were compressed."
        )

    def on_response(self, exchange: Exchange, response: Response) -> None:
        headers, request = response.headers, exchange.request
        if response.status in _AS_IT_IS:
            if response.status == 304:
                _match_the_first_answer(headers, request.headers)
            return
        if not headers.once(self._prepare_it) or _forbids(request.headers):
            return
        wanted = accepted(exchange)
        choose = self._remembered_choice if len(wanted) <= LONGEST_REMEMBERED else self._choice
        coding, smallest = choose(wanted)
        if coding is None or _size(response, request.method) < smallest:
            return
        if request.method != "HEAD":
            if type(response.body) is Body and not response.body.complete and not self._opens(exchange):
                return
            exchange[ENCODED] = response, self._encoders[coding]()
        headers["Content-Encoding"] = coding
        del headers["Content-Length"]
        del headers["Accept-Ranges"]
        _weaken(headers)

    def on_chunk(self, exchange: Exchange, chunk: bytes, last: bool) -> bytes:
        encoded = exchange.get(ENCODED)
        # What broke may have put another response in the place of the one that was to be encoded.
        if encoded is None or encoded[0] is not exchange.response or not (chunk or last):
            return chunk
        return encoded[1].encode(chunk, last)

    def on_finish(self, exchange: Exchange) -> None:
        if exchange.get(STREAMS):
            self._streams.inc(-1)

    def _prepare(self, headers: Headers) -> bool:
        """Whether such a response is worth compressing; then caches must know that not all clients get the same."""
        media_type = (headers.get("content-type") or "").partition(";")[0].strip().lower()
        worth_it = (
            self._types.fullmatch(media_type) is not None
            and media_type != "text/event-stream"
            and not any(name in headers for name in _OF_THE_BYTES)
            and not _forbids(headers)
        )
        if worth_it:
            vary(headers, "Accept-Encoding")
        return worth_it

    def _choice(self, accepted: str) -> tuple[Coding | None, int]:
        """The coding for a client that accepts these, if any, and the size from which on it is used."""
        weights: dict[str, float] = {}
        for member in accepted.split(","):
            if match := _MEMBER.fullmatch(member.strip()):
                weights[match[1].lower()] = float(match[2] or 1)
        others = weights.get("*", 0.0)
        best = max(self._encoders, key=lambda coding: weights.get(coding, others))
        weight = weights.get(best, others)
        plain = weights.get("identity", weights.get("*"))
        if not weight or (plain is not None and plain > weight):
            return None, 0
        return best, 1 if plain == 0 else self._min_size

    def _opens(self, exchange: Exchange) -> bool:
        """Whether one more body may be compressed while it arrives; then it counts."""
        if self._streams.value >= self._most_streams:
            self._refused.inc()
            return False
        self._streams.inc()
        exchange[STREAMS] = True
        return True


def _forbids(headers: Headers) -> bool:
    """Whether client or upstream wants the body left as it is (RFC 9111 §5.2)."""
    return "no-transform" in ",".join(headers.getall("cache-control")).lower()


def _size(response: Response, method: str) -> float:
    """Bytes of the body, as far as that is known; infinity where only its end will tell."""
    declared = response.headers.get("content-length") or ""
    if declared.isascii() and declared.isdigit():
        return int(declared)
    if isinstance(response.body, bytes):
        return len(response.body)
    return response.body.received if response.body.complete and method != "HEAD" else math.inf


def _weaken(headers: Headers) -> None:
    """Another coding is another sequence of bytes: the validator is only true of what they mean (RFC 9110 §8.8.1)."""
    etag = headers.get("etag")
    if etag is not None and not etag.startswith("W/"):
        headers["ETag"] = f"W/{etag}"


def _match_the_first_answer(headers: Headers, asked: Headers) -> None:
    """A client that holds the weak validator of a compressed answer hears of that one again (RFC 9110 §15.4.5)."""
    if f"W/{headers.get('etag')}" in (asked.get("if-none-match") or ""):
        _weaken(headers)
        vary(headers, "Accept-Encoding")
