"""The readers against llhttp: what ours accept, it accepts, and reads the same.

Where they differ on purpose is listed: STRICTER and STRICTER_WITH_RESPONSES are what only llhttp accepts, OTHERWISE is
where both accept and ours is what it should be. Besides, ours may close a connection that llhttp would keep.
"""

from __future__ import annotations

from typing import Final

import pytest
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, HttpResponseParser
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gateway.http1.grammar import HOP_BY_HOP
from tests.fixtures.messages import (
    REQUESTS,
    RESPONSES,
    Message,
    Pairs,
    requests_in,
    response_in,
    wires,
)

often = settings(max_examples=800, deadline=None, derandomize=True)


class Recorder:
    """Messages as llhttp reads them; `headed` counts those whose head was whole."""

    def __init__(self, kind: type[HttpRequestParser] | type[HttpResponseParser]) -> None:
        self.messages: list[Message] = []
        self.headed = 0
        self._line = b""
        self._parser = kind(self)

    def read(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            return

    def on_message_begin(self) -> None:
        self._line = b""
        self.messages.append(Message())

    def on_url(self, url: bytes) -> None:
        self._line += url

    def on_status(self, reason: bytes) -> None:
        self._line += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        message = self.messages[-1]
        into = message.trailers if len(self.messages) == self.headed else message.fields
        into.append((name.decode("latin-1"), value.decode("latin-1").strip(" \t")))

    def on_headers_complete(self) -> None:
        parser, message = self._parser, self.messages[-1]
        first = parser.get_method() if isinstance(parser, HttpRequestParser) else b"%d" % parser.get_status_code()
        message.start = first.decode(), self._line.decode("latin-1")
        message.goes_on = parser.should_keep_alive()
        self.headed = len(self.messages)

    def on_body(self, data: bytes) -> None:
        self.messages[-1].body += data

    def on_message_complete(self) -> None:
        self.messages[-1].whole = True


def requests_of_llhttp(wire: bytes) -> list[Message]:
    recorder = Recorder(HttpRequestParser)
    recorder.read(wire)
    return recorder.messages[: recorder.headed]


def responses_of_llhttp(wire: bytes) -> list[Message]:
    recorder = Recorder(HttpResponseParser)
    recorder.read(wire)
    return recorder.messages[: recorder.headed]


HOST: Final = b"Host: a\r\n"
END: Final = HOST + b"\r\n"
BODY: Final = b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"

STRICTER: Final = {
    "another version": (b"GET / HTTP/2.0\r\n" + END, 505),
    "spaces between method and target": (b"GET  / HTTP/1.1\r\n" + END, 400),
    "a target with a backslash": (b"GET /a\\b HTTP/1.1\r\n" + END, 400),
    "a target with a fragment": (b"GET /a#b HTTP/1.1\r\n" + END, 400),
    "an authority with a user": (b"GET http://u@b/ HTTP/1.1\r\n" + END, 400),
    "an authority with a port that is none": (b"GET http://b:99999/ HTTP/1.1\r\n" + END, 400),
    "another scheme than http and https": (b"GET ftp://b/ HTTP/1.1\r\n" + END, 400),
    "* for another method than OPTIONS": (b"GET * HTTP/1.1\r\n" + END, 400),
    "a tunnel": (b"CONNECT b:80 HTTP/1.1\r\n" + END, 501),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (b"GET / HTTP/1.1\r\n" + HOST + END, 400),
    "a Host that is a list": (b"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", 400),
    "an empty Host": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
    "an expectation that is none": (b"GET / HTTP/1.1\r\nExpect: x\r\n" + END, 417),
    "TRACE with a body": (b"TRACE / HTTP/1.1\r\n" + HOST + BODY, 400),
    "Max-Forwards that is no number": (b"TRACE / HTTP/1.1\r\nMax-Forwards: x\r\n" + END, 400),
    "a coding before chunked": (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n" + HOST + BODY, 501),
    "a coding in HTTP/1.0": (b"POST / HTTP/1.0\r\n" + BODY, 400),
    "two empty lines before a request": (b"\r\n\r\nGET / HTTP/1.1\r\n" + END, 400),
    "an empty line of LF before a request": (b"\nGET / HTTP/1.1\r\n" + END, 400),
    "a head larger than its limit": (b"GET / HTTP/1.1\r\nX: " + b"a" * 5000 + b"\r\n" + END, 431),
    "a target longer than the limit": (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\n" + END, 414),
}

STRICTER_WITH_RESPONSES: Final = {
    "another version": b"HTTP/2.0 200 OK\r\n\r\n",
    "a status that is none": b"HTTP/1.1 600 No\r\n\r\n",
    "a reason with DEL": b"HTTP/1.1 200 O\x7fK\r\n\r\n",
    "an empty line before a response": b"\r\nHTTP/1.1 200 OK\r\n\r\n",
    "a coding before chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a coding other than chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx",
    "chunked twice": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + BODY,
    "a coding in HTTP/1.0": b"HTTP/1.0 200 OK\r\n" + BODY,
    "a change of protocol": b"HTTP/1.1 101 Yes\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "an interim response in HTTP/1.0": b"HTTP/1.0 103 Early\r\n\r\nHTTP/1.0 200 OK\r\n\r\n",
}

OTHERWISE: Final = {
    "what llhttp does not know as a method is one": (b"OWN / HTTP/1.1\r\n" + END, [("OWN", "/", True, True)]),
    "Proxy-Connection means nothing": (
        b"GET / HTTP/1.1\r\nProxy-Connection: close\r\n" + END,
        [("GET", "/", True, True)],
    ),
    "Upgrade is not taken up, and what follows is a request": (
        b"GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n" + END + b"GET /2 HTTP/1.1\r\n" + END,
        [("GET", "/", True, True), ("GET", "/2", True, True)],
    ),
    "a target in absolute form is brought into origin form": (
        b"GET http://b?x HTTP/1.1\r\n" + END,
        [("GET", "/?x", True, True)],
    ),
    "white space behind chunked may be a tab": (
        b"POST / HTTP/1.1\r\n" + HOST + BODY.replace(b"chunked", b"chunked\t"),
        [("POST", "/", True, True)],
    ),
}


@pytest.mark.parametrize(("wire", "status"), STRICTER.values(), ids=STRICTER)
def test_ours_is_stricter_with_requests(wire: bytes, status: int) -> None:
    assert requests_of_llhttp(wire)
    assert requests_in([wire]) == ([], f"refused {status}")


@pytest.mark.parametrize("wire", STRICTER_WITH_RESPONSES.values(), ids=STRICTER_WITH_RESPONSES)
def test_ours_is_stricter_with_responses(wire: bytes) -> None:
    assert responses_of_llhttp(wire)
    ours = response_in([wire], "GET")
    assert ours.broken
    assert ours.start == ("", "")


@pytest.mark.parametrize(("wire", "read"), OTHERWISE.values(), ids=OTHERWISE)
def test_ours_reads_otherwise(wire: bytes, read: list[tuple[str, str, bool, bool]]) -> None:
    assert [(*each.start, each.goes_on, each.whole) for each in requests_in([wire])[0]] == read
    assert [(*each.start, each.goes_on, each.whole) for each in requests_of_llhttp(wire)] != read


def known_to_llhttp(method: str) -> bool:
    return bool(requests_of_llhttp(f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode()))


def names(message: Message) -> set[str]:
    return {name.lower() for name, _ in message.fields}


def in_origin_form(target: str) -> str:
    """What goes upstream of a target in absolute form (RFC 9112 §3.2.2)."""
    scheme, separator, rest = target.partition("://")
    if not separator or "/" in scheme or "?" in scheme:
        return target
    authority = rest.partition("?")[0].partition("/")[0]
    path = rest[len(authority) :]
    return path if path.startswith("/") else f"/{path}"


def same_fields(ours: Pairs, theirs: Pairs) -> bool:
    """Whether they are the same, but for those that were meant for us alone (RFC 9110 §7.6.1)."""
    kept = {name.lower() for name, _ in ours}
    options = ",".join(value for name, value in theirs if name.lower() == "connection")
    named = {option.strip(" \t").lower() for option in options.split(",")}
    gone = HOP_BY_HOP | (named - kept)
    return ours == [(name, value) for name, value in theirs if name.lower() not in gone]


def same_end(ours: Message, theirs: Message) -> None:
    """They agree where a message ends, and on what is in it."""
    if ours.broken:
        assert not theirs.whole
        return
    assert (ours.whole, ours.body) == (theirs.whole, theirs.body)
    if ours.whole:
        assert ours.trailers == theirs.trailers


@often
@given(wire=wires(REQUESTS))
def test_a_request_is_read_as_llhttp_reads_it_or_not_at_all(wire: bytes) -> None:
    assume(b"chunked\t" not in wire)  # which llhttp does not take for chunked: see OTHERWISE
    read = requests_of_llhttp(wire)
    for number, ours in enumerate(requests_in([wire])[0]):
        method, target = ours.start
        if not known_to_llhttp(method):
            return
        assert len(read) > number, "llhttp finds no request here"
        theirs = read[number]
        goal = in_origin_form(theirs.start[1])
        assert (method, target) == (theirs.start[0], "*" if goal == "/" and target == "*" else goal)
        assert same_fields(ours.fields, theirs.fields)
        assert theirs.goes_on or not ours.goes_on or "proxy-connection" in names(theirs)
        if "upgrade" in names(theirs):
            return
        same_end(ours, theirs)
        if not theirs.goes_on:
            return


@often
@given(wire=wires(RESPONSES), method=st.sampled_from(["GET", "GET", "POST", "HEAD"]))
def test_a_response_is_read_as_llhttp_reads_it_or_not_at_all(wire: bytes, method: str) -> None:
    assume(b"chunked\t" not in wire)  # which llhttp does not take for chunked: see OTHERWISE
    read = responses_of_llhttp(wire)
    ours = response_in([wire], method)
    for (status, fields), theirs in zip(ours.interim, read, strict=False):
        assert theirs.start[0] == str(status)
        assert same_fields(fields, [field for field in theirs.fields if field[0].lower() != "content-length"])
        if names(theirs) & {"content-length", "transfer-encoding"} or not theirs.goes_on:
            return  # an interim response has no body and ends nothing, whatever it says (RFC 9110 §15.2)
    if ours.start == ("", ""):
        return
    assert len(read) > len(ours.interim), "llhttp finds no response here"
    theirs = read[len(ours.interim)]
    assert ours.start == theirs.start
    assert same_fields(ours.fields, theirs.fields)
    assert theirs.goes_on or not ours.goes_on or method == "HEAD" or "proxy-connection" in names(theirs)
    if method == "HEAD" or ours.start[0] in ("204", "304"):
        assert ours.body == b""  # whatever it says of its length (RFC 9112 §6.3)
        return
    # What ends with the connection, llhttp cannot know to be whole.
    theirs.whole = theirs.whole or not names(theirs) & {"content-length", "transfer-encoding"}
    same_end(ours, theirs)


def test_a_line_feed_before_a_response_is_no_head() -> None:
    """As it is, the client would be sent an interim response of status 0."""
    assert response_in([b"\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"], "GET").broken
