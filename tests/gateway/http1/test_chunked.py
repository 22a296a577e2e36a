"""The chunked coding: what our side writes its decoder reads back, however it is cut; and nothing else looks whole."""

from __future__ import annotations

import re
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.body import Body
from gateway.headers import Headers
from gateway.http1.chunked import MAX_OVERHEAD, BadChunks, ChunkedDecoder
from gateway.http1.grammar import chunk, last_chunk
from tests.fixtures.messages import CUTS, TOKENS, byte_by_byte, cut

often = settings(max_examples=250, deadline=None, derandomize=True)

# White space around a value is no part of it, so the values here have none.
VALUES: Final = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=8
).map(lambda value: value.strip(" "))
TRAILERS: Final = st.lists(st.tuples(TOKENS, VALUES), max_size=3)
PIECES: Final = st.lists(st.binary(min_size=1, max_size=40) | st.sampled_from([b"\r\n", b"0\r\n\r\n"]), max_size=6)
SURPLUS: Final = st.sampled_from([b"\r\n", b"0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\0", b"x"])

CHUNK: Final = re.compile(rb"([0-9A-Fa-f]+)(;[^\r\n]*)?\r\n")
TRAILER: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[\t ]*([^\r\n\0]*?)[\t ]*\r\n")


def decode(wire: bytes) -> tuple[bytes, list[tuple[bytes, bytes]], bytes] | None:
    """Payload, trailers and what follows them, by the letter of RFC 9112 §7.1; None for what is not whole."""
    payload, at = b"", 0
    while size := CHUNK.match(wire, at):
        length = int(size[1], 16)
        at = size.end()
        if length == 0:
            trailers = []
            while trailer := TRAILER.match(wire, at):
                trailers.append((trailer[1], trailer[2]))
                at = trailer.end()
            return (payload, trailers, wire[at + 2 :]) if wire.startswith(b"\r\n", at) else None
        if wire[at + length : at + length + 2] != b"\r\n":
            return None
        payload += wire[at : at + length]
        at += length + 2
    return None


class Read:
    """What the decoder makes of some pieces."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.body = Body()
        self.refused = False
        self.rest = b""
        decoder = ChunkedDecoder(self.body)
        try:
            for piece in pieces:
                if self.body.complete:
                    self.rest += piece
                else:
                    decoder.feed(piece)
                    self.rest = decoder.rest
        except BadChunks:
            self.refused = True
        taken = self.body.take()
        self.payload = b"" if taken is None else taken[0]
        self.whole = self.body.complete


def encoded(pieces: list[bytes], trailers: list[tuple[str, str]]) -> bytes:
    return b"".join(map(chunk, pieces)) + last_chunk(trailers)


@often
@given(pieces=PIECES, trailers=TRAILERS, places=CUTS)
def test_what_was_written_is_read_back(pieces: list[bytes], trailers: list[tuple[str, str]], places: list[int]) -> None:
    wire = encoded(pieces, trailers)
    for cuts in ([wire], cut(wire, places), byte_by_byte(wire)):
        read = Read(cuts)
        assert (read.whole, read.refused, read.rest) == (True, False, b"")
        assert read.payload == b"".join(pieces)
        assert [(name, value.strip(" \t")) for name, value in read.body.trailers] == trailers
        Headers(read.body.trailers)  # each can stand in a message again


@often
@given(pieces=PIECES, trailers=TRAILERS, places=CUTS, end=st.integers(0, 400))
def test_what_is_cut_short_is_never_whole(
    pieces: list[bytes], trailers: list[tuple[str, str]], places: list[int], end: int
) -> None:
    wire = encoded(pieces, trailers)
    read = Read(cut(wire[: end % len(wire)], places))
    assert (read.whole, read.refused, read.rest) == (False, False, b"")
    assert b"".join(pieces).startswith(read.payload)


@often
@given(pieces=PIECES, trailers=TRAILERS, places=CUTS, surplus=SURPLUS)
def test_what_follows_the_end_is_noticed_and_is_no_part_of_the_body(
    pieces: list[bytes], trailers: list[tuple[str, str]], places: list[int], surplus: bytes
) -> None:
    wire = encoded(pieces, trailers) + surplus
    for cuts in ([wire], cut(wire, places), byte_by_byte(wire)):
        read = Read(cuts)
        assert (read.whole, read.refused, read.payload) == (True, False, b"".join(pieces))
        assert len(read.body.trailers) == len(trailers)
        assert read.rest == surplus


@settings(often, max_examples=800)
@given(
    pieces=PIECES,
    trailers=TRAILERS,
    places=CUTS,
    changes=st.lists(
        st.tuples(
            st.integers(0, 400),
            st.integers(0, 2),
            st.sampled_from(
                [b"\r", b"\n", b"\r\n", b"0", b"1", b"f", b"A", b";", b" ", b"\t", b":", b"\0", b"-", b"x"]
            ),
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_whatever_is_taken_for_whole_is_whole_by_the_letter(
    pieces: list[bytes], trailers: list[tuple[str, str]], places: list[int], changes: list[tuple[int, int, bytes]]
) -> None:
    """No spelling that another reader might take for another body, and the cuts do not change what is read."""
    wire = encoded(pieces, trailers)
    for place, length, wrong in changes:
        at = place % len(wire)
        wire = wire[:at] + wrong + wire[at + length :]
    read, in_bytes = Read(cut(wire, places)), Read(byte_by_byte(wire))
    assert (read.whole, read.refused, read.payload) == (in_bytes.whole, in_bytes.refused, in_bytes.payload)
    if read.whole:
        assert not read.refused
        letter = decode(wire)
        assert letter is not None
        payload, lines, rest = letter
        assert read.payload == payload
        assert [(n.encode(), v.strip(" \t").encode("latin-1")) for n, v in read.body.trailers] == lines
        assert read.rest == rest


@often
@given(pieces=st.lists(st.integers(1, 3), max_size=3000), extension=st.integers(0, 20), places=CUTS)
def test_small_chunks_are_read_unless_they_are_mostly_coding(
    pieces: list[int], extension: int, places: list[int]
) -> None:
    wire = b"".join(b"%x;%b\r\n%b\r\n" % (size, b"a" * (extension + 1), b"b" * size) for size in pieces) + b"0\r\n\r\n"
    read = Read(cut(wire, places))
    assert read.whole != read.refused
    waste = len(wire) - sum(pieces)
    if waste <= MAX_OVERHEAD:
        assert read.whole
    if read.whole:
        assert waste <= MAX_OVERHEAD + 8 * sum(pieces)


@pytest.mark.parametrize(
    "surplus",
    [b"CONNECT a:80 HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"],
    ids=["CONNECT", "Upgrade"],
)
def test_a_change_of_protocol_behind_the_end_is_surplus(surplus: bytes) -> None:
    read = Read([encoded([b"a"], []) + surplus])
    assert (read.whole, read.rest) == (True, surplus)


def test_what_follows_the_end_is_not_wasted_on_the_coding() -> None:
    read = Read([b"1\r\na\r\n0\r\n\r\n" + b"GET /" + b"a" * 2 * MAX_OVERHEAD])
    assert (read.whole, read.refused) == (True, False)


def test_what_was_refused_stays_refused() -> None:
    body = Body()
    decoder = ChunkedDecoder(body)
    with pytest.raises(BadChunks):
        decoder.feed(b"1;" + b"a" * 2 * MAX_OVERHEAD + b"\r\na\r\n")
    with pytest.raises(BadChunks):
        decoder.feed(chunk(b"b" * MAX_OVERHEAD) + last_chunk([]))
    assert not body.complete
