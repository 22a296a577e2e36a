from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.websocket.frames import FrameReader
from tests.fixtures.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close, frame, said

LARGEST = 1000
DATA = st.tuples(st.just(BINARY), st.binary(max_size=300)) | st.tuples(
    st.just(TEXT), st.text(max_size=100).map(str.encode)
)
CONTROL = st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125))


@st.composite
def sessions(draw: st.DrawFn) -> tuple[list[bytes], int, int]:
    """Frames of a client, how many messages they are and how large all of these are; some are fragmented."""
    wire, count, size = [], 0, 0
    for opcode, payload in draw(st.lists(DATA, max_size=5)):
        places = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
        pieces = [payload[a:b] for a, b in zip([0, *places], [*places, len(payload)], strict=True)]
        for number, piece in enumerate(pieces):
            wire += [said(*control) for control in draw(st.lists(CONTROL, max_size=1))]
            kind = opcode if number == 0 else CONTINUATION
            wire.append(said(kind, piece, fin=number == len(pieces) - 1))
        count, size = count + 1, size + len(payload)
    return wire, count, size


def reader(*, masked: bool = True, compressed: bool = False) -> FrameReader:
    return FrameReader(masked=masked, max_message=LARGEST, compressed=compressed)


def fed(frames: FrameReader, wire: bytes, places: list[int]) -> bytes:
    cuts = [0, *sorted(place % (len(wire) + 1) for place in places), len(wire)]
    return b"".join(frames.feed(wire[a:b]) for a, b in pairwise(cuts))


@given(sessions(), st.lists(st.integers(0, 2000), max_size=8))
def test_what_is_valid_passes_whole_and_is_counted_however_it_is_cut(
    session: tuple[list[bytes], int, int], places: list[int]
) -> None:
    wire, count, size = session
    frames = reader()
    assert fed(frames, b"".join(wire), places) == b"".join(wire)
    assert (frames.messages, frames.size, frames.closed, frames.violation) == (count, size, False, None)


@given(sessions(), st.lists(st.integers(0, 2000), max_size=8), st.binary(max_size=20))
def test_nothing_passes_behind_a_close(session: tuple[list[bytes], int, int], places: list[int], more: bytes) -> None:
    wire = b"".join(session[0]) + close(1000, b"bye", masked=True)
    frames = reader()
    assert fed(frames, wire + more, places) == wire
    assert (frames.closed, frames.said_close, frames.violation) == (True, True, None)


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=8))
def test_whatever_arrives_what_passes_is_its_beginning(wire: bytes, places: list[int]) -> None:
    frames = reader()
    assert wire.startswith(fed(frames, wire, places))


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=8))
def test_a_verdict_does_not_depend_on_the_cuts(wire: bytes, places: list[int]) -> None:
    whole, pieces = reader(), reader()
    passed, in_pieces = whole.feed(wire), fed(pieces, wire, places)
    assert (whole.violation, whole.messages, whole.closed) == (pieces.violation, pieces.messages, pieces.closed)
    if whole.violation is None:
        assert passed == in_pieces
    else:
        assert in_pieces.startswith(passed)  # a text is torn where it arrived in pieces


BROKEN = {
    "not masked": (frame(TEXT, b"x"), 1002),
    "a reserved opcode": (said(0x3, b"x"), 1002),
    "a reserved control opcode": (said(0xB), 1002),
    "a reserved bit": (said(TEXT, b"x", reserved=0b010), 1002),
    "compressed unasked": (said(TEXT, b"x", reserved=0b100), 1002),
    "a reserved bit of a control frame": (said(PING, reserved=0b100), 1002),
    "a control frame in fragments": (said(PING, fin=False), 1002),
    "a control frame too long": (said(PING, b"x" * 126), 1002),
    "a close too long": (said(CLOSE, b"\x03\xe8" + b"x" * 124), 1002),
    "a continuation of nothing": (said(CONTINUATION, b"x"), 1002),
    "a message inside of another": (said(TEXT, b"x", fin=False) + said(TEXT, b"x"), 1002),
    "a length in too many bytes": (b"\x82\xfe\x00\x01\x00\x00\x00\x00x", 1002),
    "a length in far too many bytes": (b"\x82\xff" + b"\x00" * 6 + b"\xff\xff" + b"\x00" * 4, 1002),
    "a length with its highest bit": (b"\x82\xff\x80" + b"\x00" * 7 + b"\x00" * 4, 1002),
    "half a code": (said(CLOSE, b"\x03"), 1002),
    "a code that is none": (close(1005, masked=True), 1002),
    "a reason that is no text": (close(1000, b"\xc3(", masked=True), 1007),
    "too large": (said(BINARY, b"x" * (LARGEST + 1)), 1009),
    "too large in fragments": (said(BINARY, b"x" * LARGEST, fin=False) + said(CONTINUATION, b"x"), 1009),
    "no text": (said(TEXT, b"\xff"), 1007),
    "a surrogate": (said(TEXT, b"\xed\xa0\x80"), 1007),
    "a character that does not end": (said(TEXT, b"\xc3"), 1007),
    "no text in its second fragment": (said(TEXT, b"\xc3", fin=False) + said(CONTINUATION, b"("), 1007),
    "an end in an empty fragment": (said(TEXT, b"\xc3", fin=False) + said(CONTINUATION), 1007),
}


@pytest.mark.parametrize(("wire", "code"), BROKEN.values(), ids=BROKEN)
def test_what_breaks_a_rule_does_not_pass(wire: bytes, code: int) -> None:
    good = said(TEXT, b"good")
    frames = reader()
    passed = frames.feed(good + wire + good)
    assert frames.violation is not None
    assert frames.violation.code == code
    assert (frames.closed, frames.torn) == (True, False)
    assert passed.startswith(good)
    assert len(passed) < len(good + wire)
    assert frames.feed(good) == b""
    bytewise = reader()
    for place in range(len(wire)):
        bytewise.feed(wire[place : place + 1])
    assert bytewise.violation == frames.violation


def test_a_server_masks_nothing() -> None:
    frames = reader(masked=False)
    assert frames.feed(frame(TEXT, b"x")) == frame(TEXT, b"x")
    assert frames.feed(said(TEXT, b"x")) == b""
    assert frames.violation is not None
    assert frames.violation.code == 1002


def test_compressed_messages_pass_unread_where_that_was_agreed_on() -> None:
    wire = said(TEXT, b"\xff\xff", reserved=0b100, fin=False) + said(CONTINUATION, b"\xff")
    frames = reader(compressed=True)
    assert frames.feed(wire) == wire
    assert (frames.messages, frames.size) == (1, 3)


def test_binary_is_not_read() -> None:
    assert reader().feed(said(BINARY, b"\xff")) == said(BINARY, b"\xff")


def test_a_text_that_has_begun_to_pass_is_torn() -> None:
    wire = said(TEXT, b"good\xffgood")
    frames = reader()
    assert frames.feed(wire[:10]) == wire[:10]
    assert frames.feed(wire[10:]) == b""
    assert frames.torn


def test_a_frame_under_way_ends_before_a_reader_finishes() -> None:
    wire = said(BINARY, b"whole")
    frames = reader()
    frames.feed(wire[:8])
    frames.finish()
    assert not frames.closed
    assert frames.feed(wire[8:] + wire) == wire[8:]
    assert frames.closed
    assert not frames.said_close


def test_half_a_header_is_kept_back() -> None:
    wire = said(BINARY, b"x" * 200)
    frames = reader()
    assert frames.feed(wire[:7]) == b""
    frames.finish()
    assert frames.closed


@given(sessions(), st.lists(st.integers(0, 2000), max_size=8))
def test_what_comes_after_the_finish_is_read_up_to_the_close(
    session: tuple[list[bytes], int, int], places: list[int]
) -> None:
    frames = reader()
    frames.finish()
    assert fed(frames, b"".join(session[0]), places) == b""
    assert (frames.messages, frames.size, frames.violation, frames.said_close) == (0, 0, None, False)
    assert fed(frames, close(1001, masked=True) + said(TEXT, b"more"), places) == b""
    assert frames.said_close
