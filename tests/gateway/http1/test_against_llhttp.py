"""The readers against llhttp: what ours accept, it accepts, and reads the same; and cuts between bytes mean nothing.

Named differences, where ours is what it should be:
methods that llhttp does not know are methods; Upgrade is not taken up; nothing follows a `Connection: close`; a
response to HEAD, and those with 204 and 304, have no body whatever they say; a connection may also be closed where
llhttp would keep it, never the other way round.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import pytest
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, HttpResponseParser
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.body import Body
from gateway.exchange import Request
from gateway.headers import Headers
from gateway.http1.grammar import HOP_BY_HOP, Malformed
from gateway.http1.request_reader import RequestReader
from gateway.http1.response_reader import ResponseReader
from gateway.problem import Problem
from tests.fixtures.source import Told

MAX_HEAD: Final = 4096
Pairs = list[tuple[str, str]]

many = settings(max_examples=600, deadline=None, derandomize=True)


@dataclass
class Message:
    """What either side read."""

    start: tuple[str, str] = ("", "")
    """Method and target, or status and reason."""
    fields: Pairs = field(default_factory=list)
    body: bytes = b""
    trailers: Pairs = field(default_factory=list)
    whole: bool = False
    broken: bool = False
    goes_on: bool = False
    interim: list[tuple[int, Pairs]] = field(default_factory=list)


class Recorder:
    """Messages as llhttp reads them."""

    def __init__(self, kind: type[HttpRequestParser] | type[HttpResponseParser]) -> None:
        self.messages: list[Message] = []
        self.headed = 0
        self._url = b""
        self._parser = kind(self)

    def read(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            return

    def on_message_begin(self) -> None:
        self._url = b""
        self.messages.append(Message())

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_status(self, reason: bytes) -> None:
        self._url += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        message = self.messages[-1]
        into = message.trailers if len(self.messages) == self.headed else message.fields
        into.append((name.decode("latin-1"), value.decode("latin-1").strip(" \t")))

    def on_headers_complete(self) -> None:
        parser, message = self._parser, self.messages[-1]
        first = parser.get_method() if isinstance(parser, HttpRequestParser) else b"%d" % parser.get_status_code()
        message.start = first.decode(), self._url.decode("latin-1")
        message.goes_on = parser.should_keep_alive()
        self.headed = len(self.messages)

    def on_body(self, data: bytes) -> None:
        self.messages[-1].body += data

    def on_message_complete(self) -> None:
        self.messages[-1].whole = True


def payload(body: Body, into: Message) -> None:
    """What has arrived of a body."""
    into.whole = body.complete
    try:
        while (piece := body.take()) is not None:
            into.body += piece[0]
            if piece[1]:
                break
    except Problem:
        into.broken = True
    into.trailers = [(name, value.strip(" \t")) for name, value in body.trailers]


def requests_in(pieces: list[bytes]) -> tuple[list[Message], str]:
    """What our reader makes of a connection's bytes, each request answered at once; and how that ended."""
    reader = RequestReader(Told(), MAX_HEAD)
    found: list[tuple[Request, Message]] = []
    end = "open"
    try:
        for piece in pieces:
            request = reader.feed(piece)
            while request is not None or (reader.complete and not reader.waiting):
                if request is not None:
                    start = request.method, request.target
                    found.append((request, Message(start, list(request.headers.items()), goes_on=request.keep_alive)))
                    request = None
                elif found[-1][1].goes_on and reader.reusable:
                    request = reader.resume()
                else:
                    end = "closed"
                    break
            if end == "closed":
                break
            if not reader.waiting and not reader.complete:
                continue
    except Problem as problem:
        end = f"refused {problem.status}"
    for request, message in found:
        payload(request.body, message)
    return [message for _, message in found], end


def response_in(pieces: list[bytes], method: str) -> Message:
    """What our reader makes of an upstream's answer to this method."""
    reader = ResponseReader(Told(), MAX_HEAD)
    reader.begin(Request(method, "/", Headers()))
    message = Message()
    left = list(pieces)
    try:
        while left and not reader.complete:
            reader.feed(left.pop(0))
        message.whole = reader.eof() if not reader.complete else True
    except Malformed:
        message.broken = True
    message.interim = reader.interim
    response = reader.response
    if response is None:
        return message
    message.start = str(response.status), (response.reason or b"").decode("latin-1")
    message.fields = list(response.headers.items())
    message.goes_on = reader.reusable and not any(left)
    if isinstance(response.body, Body):
        whole = message.whole
        payload(response.body, message)
        message.whole = whole and not message.broken
    else:
        message.body = response.body
    return message


# Messages: mostly right, each part with the spellings that readers have disagreed about.

HOSTS = ["Host: a", "host:a", "HOST: a:80 ", "Host: [::1]", "Host: a\r\nHost: b", "Host: a,b", "Host:", "X: 1"]
ODD_FIELDS = [
    "Content-Length: 5", "content-length:5 ", "Content-Length: 05", "Content-Length: +5", "Content-Length: 5,5",
    "Content-Length: 5 5", "Content-Length: 0x5", "Content-Length:", "Content-Length: -1", "Content-Length: 0",
    "Content-Length : 5", "Content-Length: 99999999999999999999", "Content_Length: 5", " Content-Length: 5",
    "Transfer-Encoding: chunked", "transfer-encoding:CHUNKED", "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: identity", "Transfer-Encoding:\x0bchunked",
    "Transfer-Encoding: \tchunked\t", "Transfer-Encoding : chunked", "Transfer-Encoding:", "Transfer-Encoding: ,chunked",
    "Transfer-Encoding\x00: chunked", "Transfer-Encoding: xchunked", "X: a\r\n Transfer-Encoding: chunked",
    "Connection: close", "Connection: keep-alive", "connection: Close , x", "Connection: x-own, Keep-Alive",
    "Connection: close, keep-alive", "Connection: upgrade\r\nUpgrade: h2c", "Upgrade: websocket", "Connection:",
    "Connection: content-length", "Connection: transfer-encoding, host", "Keep-Alive: timeout=5", "TE: trailers",
    "Proxy-Connection: close", "Expect: 100-continue", "Trailer: x", "X-Own: 1", "x-own:  \t two words \t", "X:",
    "X: \xe4\xa0", "X: a\x00b", "X: a\x7f", "X", ": x", "X: a\r\n\tb", "X: \"a,b\"", "Max-Forwards: 3",
]  # fmt: skip
FIELDS = st.lists(st.sampled_from(ODD_FIELDS) | st.sampled_from(["X-Own: 1", "Accept: */*", "x: y"]), max_size=3)
CHUNKED_BODIES = st.builds(
    "{}{}{}".format,
    st.lists(
        st.sampled_from(
            [
                "5\r\nhello\r\n",
                "1;a=b\r\nx\r\n",
                "A\r\n0123456789\r\n",
                "2\r\n\r\n\r\n",
                "05\r\nhello\r\n",
                "3\r\nabcd\r\n",
            ]
        ),
        max_size=3,
    ).map("".join),
    st.sampled_from(["0\r\n", "000\r\n", "0;x\r\n", "", "0\n"]),
    st.sampled_from(
        ["\r\n", "\r\n", "\r\n", "X-T: 1\r\n\r\n", "Content-Length: 3\r\nx:\t2 \r\n\r\n", "\n", "", "X\r\n\r\n"]
    ),
)
ENDS = st.sampled_from(["\r\n"] * 12 + ["\n", "\r", "\r\r\n"])
BODIES = st.sampled_from(["", "", "hello", "hello", "hell", "hello!"]) | CHUNKED_BODIES
METHODS = ["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH", "TRACE", "CONNECT", "PURGE", "OWN", "get", "PRI"]
WIRE_TARGETS = [
    "/", "/", "/a/b?c=d", "//", "/%41%2f", "/;x=1", "/a#b", "/a\\b", "/a\"<>^`{|}", "/?#", "*", "http://b.example/x?y",
    "HTTPS://b:8080", "http://b?x", "http://u@b/", "ftp://b/", "b:80", "/\x80", "/a\tb", "", "/a b", "/*",
]  # fmt: skip
VERSIONS = ["HTTP/1.1"] * 6 + ["HTTP/1.0", "HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1.1 "]
STATUSES = [200, 200, 200, 204, 304, 404, 500, 599, 100, 103, 101, 600, 99]
REASONS = [" OK", "", " ", " Not  Found", " \xe4", "  two", "\tx", " a\x00"]


@st.composite
def messages(draw: st.DrawFn, start: st.SearchStrategy[str], hosts: list[str]) -> str:
    fields = draw(FIELDS)
    if draw(st.integers(0, 9)):  # mostly one good way to say where the body ends
        fields = [each for each in fields if "ength" not in each and "ncoding" not in each]
        body = draw(st.sampled_from(["", "hello"])) if draw(st.booleans()) else draw(CHUNKED_BODIES)
        if body:
            fields.append("Content-Length: 5" if body == "hello" else "Transfer-Encoding: chunked")
    else:
        body = draw(BODIES)
    host = hosts[0] if draw(st.integers(0, 4)) else draw(st.sampled_from(hosts))
    lines = [draw(start), *draw(st.permutations([host, *fields])), ""]
    ends = [draw(ENDS) if not draw(st.integers(0, 5)) else "\r\n" for _ in lines]
    return "".join(line + end for line, end in zip(lines, ends, strict=True)) + body


REQUESTS = messages(
    st.builds("{} {} {}".format, st.sampled_from(METHODS), st.sampled_from(WIRE_TARGETS), st.sampled_from(VERSIONS)),
    HOSTS,
)
RESPONSES = messages(
    st.builds("{} {}{}".format, st.sampled_from(VERSIONS), st.sampled_from(STATUSES), st.sampled_from(REASONS)),
    ["Server: x", "X: 1"],
)
MUTATIONS = st.lists(
    st.tuples(
        st.integers(0, 400), st.sampled_from(["insert", "replace", "delete"]), st.sampled_from("\r\n\0 \t:,;0f\x80X")
    ),
    max_size=2,
)


@st.composite
def wires(draw: st.DrawFn, message: st.SearchStrategy[str]) -> bytes:
    """Some messages in a row, now and then with a wrong byte."""
    wire = draw(st.lists(message, min_size=1, max_size=3).map("".join))
    for place, how, character in draw(MUTATIONS):
        at = place % (len(wire) + 1)
        wire = wire[:at] + (character if how != "delete" else "") + wire[at + (how != "insert") :]
    return wire.encode("latin-1")


CUTS = st.lists(st.integers(0, 600), max_size=5)


def cut(wire: bytes, places: list[int]) -> list[bytes]:
    places = sorted({0, len(wire), *(place % (len(wire) + 1) for place in places)})
    return [wire[start:end] for start, end in zip(places, places[1:], strict=False)]


def known_to_llhttp(method: str) -> bool:
    recorder = Recorder(HttpRequestParser)
    recorder.read(f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    return recorder.headed == 1


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


@settings(many, max_examples=1500)
@given(wire=wires(REQUESTS))
def test_a_request_is_read_as_llhttp_reads_it_or_not_at_all(wire: bytes) -> None:
    recorder = Recorder(HttpRequestParser)
    recorder.read(wire)
    found, _ = requests_in([wire])
    for number, ours in enumerate(found):
        method, target = ours.start
        if not known_to_llhttp(method):
            return
        assert recorder.headed > number, "llhttp finds no request here"
        theirs = recorder.messages[number]
        goal = in_origin_form(theirs.start[1])
        assert (method, target) == (theirs.start[0], "*" if goal == "/" and target == "*" else goal)
        assert same_fields(ours.fields, theirs.fields)
        assert theirs.goes_on or not ours.goes_on
        if any(name.lower() == "upgrade" for name, _ in theirs.fields):
            return
        same_end(ours, theirs)


@settings(many, max_examples=1500)
@given(wire=wires(RESPONSES), method=st.sampled_from(["GET", "GET", "POST", "HEAD"]))
def test_a_response_is_read_as_llhttp_reads_it_or_not_at_all(wire: bytes, method: str) -> None:
    recorder = Recorder(HttpResponseParser)
    recorder.read(wire)
    ours = response_in([wire], method)
    for number, (status, fields) in enumerate(ours.interim):
        theirs = recorder.messages[number]
        assert theirs.start[0] == str(status)
        assert same_fields(fields, theirs.fields)
        if {name.lower() for name, _ in theirs.fields} & {"content-length", "transfer-encoding"}:
            return  # an interim response has no body whatever it says (RFC 9110 §15.2)
    if ours.start == ("", ""):
        return
    assert recorder.headed > len(ours.interim), "llhttp finds no response here"
    theirs = recorder.messages[len(ours.interim)]
    assert ours.start == theirs.start
    assert same_fields(ours.fields, theirs.fields)
    assert theirs.goes_on or not ours.goes_on or method == "HEAD"
    if method == "HEAD" or ours.start[0] in ("204", "304"):
        assert ours.body == b""
        return
    framed = {name.lower() for name, _ in theirs.fields} & {"content-length", "transfer-encoding"}
    theirs.whole = theirs.whole or not framed  # what ends with the connection, llhttp cannot know to be whole
    same_end(ours, theirs)


def ends_alike(some: tuple[list[Message], str], other: tuple[list[Message], str]) -> None:
    """The same requests and the same end; a connection may end sooner behind a chunked body with bytes right behind."""
    (ours, end), (theirs, other_end) = sorted([some, other], key=lambda each: len(each[0]))
    if end == "closed" and ours and ours[-1].goes_on and ours != theirs:
        theirs, other_end = theirs[: len(ours)], end
    assert ours == theirs
    if not (end == "closed" and ours and ours[-1].goes_on):
        assert end == other_end


@many
@given(wire=wires(REQUESTS), places=CUTS)
def test_requests_are_the_same_however_their_bytes_are_cut(wire: bytes, places: list[int]) -> None:
    whole = requests_in([wire])
    ends_alike(whole, requests_in(cut(wire, places)))
    ends_alike(whole, requests_in(cut(wire, list(range(len(wire))))))


@many
@given(wire=wires(RESPONSES), places=CUTS, method=st.sampled_from(["GET", "GET", "HEAD"]))
def test_a_response_is_the_same_however_its_bytes_are_cut(wire: bytes, places: list[int], method: str) -> None:
    whole = response_in([wire], method)
    for pieces in (cut(wire, places), cut(wire, list(range(len(wire))))):
        other = response_in(pieces, method)
        if whole.broken or other.broken:
            assert whole.broken == other.broken
        else:
            assert whole == other


@many
@given(
    data=st.lists(
        st.binary(max_size=40) | st.sampled_from([b"GET / HTTP/1.1\r\n", b"\r\n", b"Host: a\r\n"]), max_size=6
    )
)
def test_noise_is_refused_and_breaks_nothing(data: list[bytes]) -> None:
    requests_in(data)
    response_in(data, "GET")
    response_in([b"HTTP/1.1 200 OK\r\n", *data], "GET")
