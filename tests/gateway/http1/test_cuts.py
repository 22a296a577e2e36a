"""The readers and the cuts between pieces: the same bytes are the same messages, however they arrive.

Two things may depend on the cuts: which of several faults a refusal names, and whether a connection is closed behind a
chunked body, which it is where bytes follow in the same piece.
"""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from gateway.http1.response_reader import ResponseReader
from tests.fixtures.messages import (
    CUTS,
    MAX_HEAD,
    REQUESTS,
    RESPONSES,
    Message,
    byte_by_byte,
    cut,
    requests_in,
    response_in,
    wires,
)
from tests.fixtures.source import Told

often = settings(max_examples=300, deadline=None, derandomize=True)

HEAD: Final = "POST / HTTP/1.1\r\nHost: a\r\n"
ONE_FAULT: Final = {
    "no method": (" / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a version of old": ("GET /\r\nHost: a\r\n\r\n", 400),
    "a version to come": ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
    "a fragment": ("GET /#a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "no host": ("GET / HTTP/1.1\r\n\r\n", 400),
    "a tunnel": ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "a line feed": (HEAD + "X: a\nY: b\r\n\r\n", 400),
    "a control character": (HEAD + "X: a\0\r\n\r\n", 400),
    "a carriage return": (HEAD + "X: a\rb", 400),
    "no name": (HEAD + ": a\r\n\r\n", 400),
    "no colon": (HEAD + "a\r\n\r\n", 400),
    "a length that is none": (HEAD + "Content-Length: a\r\n\r\n", 400),
    "a length and a coding": (HEAD + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "a coding that is not known": (HEAD + "Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    "an expectation": (HEAD + "Expect: a\r\n\r\n", 417),
    "a target too long": (f"GET /{'a' * MAX_HEAD} HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    "a field too long": (f"{HEAD}X: {'a' * MAX_HEAD}\r\n\r\n", 431),
    "one byte too many": (f"{HEAD}X: {'a' * (MAX_HEAD - len(HEAD) - 6)}\r\n\r\n", 431),
}


def ends_alike(some: tuple[list[Message], str], other: tuple[list[Message], str]) -> None:
    """The same requests and the same end, but for what may depend on the cuts."""
    (ours, end), (theirs, other_end) = sorted([some, other], key=lambda each: len(each[0]))
    if end == "closed" and ours[-1].goes_on:
        assert ours == theirs[: len(ours)]
    else:
        assert ours == theirs
        assert end.partition(" ")[0] == other_end.partition(" ")[0]


@often
@given(wire=wires(REQUESTS), places=CUTS)
@example(HEAD.encode() + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: 1\r\nY\r: 2\r\n\r\n", [68])
def test_requests_are_the_same_however_their_bytes_are_cut(wire: bytes, places: list[int]) -> None:
    assume(not wire.startswith(b"\r\n\r\n"))  # see the expected failure below
    whole = requests_in([wire])
    ends_alike(whole, requests_in(cut(wire, places)))
    ends_alike(whole, requests_in(byte_by_byte(wire)))


@pytest.mark.parametrize(("wire", "status"), ONE_FAULT.values(), ids=ONE_FAULT)
@pytest.mark.parametrize(
    "before", ["", "\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"], ids=["first", "empty line", "next"]
)
def test_a_fault_is_named_the_same_however_its_bytes_are_cut(wire: str, status: int, before: str) -> None:
    message = (before + wire).encode()
    for pieces in [
        [message],
        byte_by_byte(message),
        cut(message, [len(message) - 1]),
        cut(message, [len(message) // 2]),
    ]:
        read, end = requests_in(pieces)
        assert (len(read), end) == (before.startswith("GET"), f"refused {status}")


@often
@given(wire=wires(RESPONSES), places=CUTS, method=st.sampled_from(["GET", "GET", "HEAD"]))
def test_a_response_is_the_same_however_its_bytes_are_cut(wire: bytes, places: list[int], method: str) -> None:
    whole = response_in([wire], method)
    for pieces in (cut(wire, places), byte_by_byte(wire)):
        other = response_in(pieces, method)
        if whole.broken or other.broken:
            assert whole.broken == other.broken
        else:
            assert whole == other


@settings(often, max_examples=120)
@given(
    turns=st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["GET", "GET", "HEAD", "POST"]), CUTS), min_size=2, max_size=6
    ),
    answers=st.lists(wires(RESPONSES), min_size=3, max_size=3),
)
def test_what_came_before_on_a_connection_changes_no_response(
    turns: list[tuple[int, str, list[int]]], answers: list[bytes]
) -> None:
    """Heads come again, for other methods and cut elsewhere: what is kept of them is never taken for another's."""
    reader = ResponseReader(Told(), MAX_HEAD)
    for which, method, places in turns:
        pieces = cut(answers[which], places)
        here = response_in(pieces, method, reader)
        assert here == response_in(pieces, method)
        if not here.whole:
            return


@often
@given(
    noise=st.lists(
        st.binary(max_size=40) | st.sampled_from([b"GET / HTTP/1.1\r\n", b"\r\n", b"Host: a\r\n"]), max_size=6
    )
)
def test_noise_is_refused_and_breaks_nothing(noise: list[bytes]) -> None:
    requests_in(noise)
    response_in(noise, "GET")
    response_in([b"HTTP/1.1 200 OK\r\n", *noise], "GET")


def test_empty_lines_before_a_request_count_the_same_however_they_are_cut() -> None:
    wire = b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"
    ends_alike(requests_in([wire]), requests_in(byte_by_byte(wire)))


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 505),
        (b"GET / HTTP/1.1\r\nHost: a\r\na\r\n\r\n" + b"b" * MAX_HEAD, 400),
    ],
    ids=["preface of HTTP/2", "a body behind a field without a colon"],
)
def test_what_follows_a_head_does_not_change_its_fault(wire: bytes, status: int) -> None:
    assert requests_in(byte_by_byte(wire)) == ([], f"refused {status}")
    assert requests_in([wire]) == ([], f"refused {status}")
