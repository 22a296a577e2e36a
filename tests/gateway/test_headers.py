"""Headers: they behave as a plain list of pairs would, and what a reader remembers is never anybody's to change."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, MultipleResults, RuleBasedStateMachine, initialize, invariant, multiple, rule

from gateway.exchange import Request
from gateway.headers import Headers, valid_field
from gateway.http1.request_reader import RequestReader
from gateway.http1.response_reader import ResponseReader
from tests.fixtures.source import Told

Pair = tuple[str, str]

calmly = settings(max_examples=120, deadline=None, derandomize=True)

# Few names, so that they meet again in other spellings.
NAMES = st.sampled_from(["a", "A", "Ab", "aB", "AB", "a-b", "A-B", "a_b", "x-1", "X-1", "!#$%&'*+-.^_`|~", "zz"])
TEXT = st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f") | st.just("\t")
VALUES = st.text(TEXT, max_size=6) | st.sampled_from(["", " ", "\t", "a, b", " inner  space ", "\xa0\x85", "x" * 200])
PAIRS = st.lists(st.tuples(NAMES, VALUES), max_size=6)
FORBIDDEN = st.sampled_from("\r\n\0\x01\x08\x0b\x0c\x1f\x7fĀ€\u2028\U0001f600\ud800")
NOT_A_NAME = st.one_of(
    st.just(""),
    st.builds(
        "{}{}{}".format, NAMES, st.sampled_from(' :\t\r\n\0"(),/;<=>?@[\\]{}\x7f\xe4ß€\u212a'), NAMES | st.just("")
    ),
)
NOT_A_VALUE = st.builds("{}{}{}".format, VALUES, FORBIDDEN, VALUES)


def same(name: str, other: str) -> bool:
    return name.lower() == other.lower()


def bare(value: str) -> str:
    """White space around a value is no part of it (RFC 9110 §5.5)."""
    return value.strip(" \t")


def check(headers: Headers, model: list[Pair]) -> None:
    """Every way to look at the headers says what the list says."""
    assert list(headers.items()) == model
    assert len(headers) == len(model)
    assert [name.lower() for name in headers] == [name.lower() for name, _ in model]
    for asked in {name for name, _ in model} | {"a", "AB", "absent"}:
        values = [value for name, value in model if same(name, asked)]
        for spelled in (asked, asked.upper(), asked.lower()):
            assert (spelled in headers) == bool(values)
            assert headers.getall(spelled) == values
            assert headers.get(spelled) == (values[0] if values else None)
            assert headers.get(spelled, "default") == (values[0] if values else "default")
            if values:
                assert headers[spelled] == values[0]
            else:
                with pytest.raises(KeyError):
                    headers[spelled]
        kept = [(name, value) for name, value in model if not same(name, asked)]
        assert parted(headers.wire(frozenset({asked.lower()}))) == kept
    assert parted(headers.wire(frozenset())) == model


def parted(wire: bytes) -> list[Pair]:
    """Lines as a peer would take them apart."""
    *lines, rest = wire.split(b"\r\n")
    assert rest == b"", "each line has its CRLF"
    pairs = [line.partition(b":") for line in lines]
    return [(name.decode("ascii"), value.strip(b" \t").decode("latin-1")) for name, _, value in pairs]


def set_in(model: list[Pair], name: str, value: str) -> list[Pair]:
    """The list after this is the only field of its name, in the place of the first there was."""
    places = [place for place, (present, _) in enumerate(model) if same(present, name)]
    if not places:
        return [*model, (name, value)]
    kept = [pair for pair in model[places[0] + 1 :] if not same(pair[0], name)]
    return [*model[: places[0]], (name, value), *kept]


class Modelled:
    """Headers, and the list that they must be like."""

    def __init__(self, headers: Headers, model: list[Pair]) -> None:
        self.headers = headers
        self.model = model


def look(headers: Headers) -> list[str]:
    return headers.getall("a")


def take_one(headers: Headers) -> list[str]:
    return headers.take("ab")


def put_one(headers: Headers) -> int:
    headers["X-1"] = "put"
    headers.add("zz", "put")
    return len(headers)


READINGS: list[Callable[[Headers], object]] = [look, take_one, put_one]


class HeadersAreAList(RuleBasedStateMachine):
    """Any number of headers, each with its model; a copy goes its own way from the moment it is made."""

    some: Bundle[Modelled] = Bundle("some")

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Modelled] = []

    def _keep(self, headers: Headers, model: list[Pair]) -> Modelled:
        self.all.append(Modelled(headers, model))
        return self.all[-1]

    @initialize(target=some, pairs=PAIRS, block=PAIRS)
    def made(self, pairs: list[Pair], block: list[Pair]) -> MultipleResults[Modelled]:
        model = [(name, bare(value)) for name, value in pairs]
        as_mapping = dict(pairs)
        model_of_mapping: list[Pair] = [(name, bare(value)) for name, value in as_mapping.items()]
        reader = RequestReader(Told(), 65536)
        arrived = [reading(reader, block).headers for _ in range(2)]  # the second from what the reader remembers
        read = [("Host", "a"), *((name, bare(value)) for name, value in block)]
        return multiple(
            self._keep(Headers(pairs), model),
            self._keep(Headers(as_mapping), model_of_mapping),
            *(self._keep(headers, list(read)) for headers in arrived),
        )

    @rule(one=some, name=NAMES, value=VALUES)
    def add(self, one: Modelled, name: str, value: str) -> None:
        one.headers.add(name, value)
        one.model.append((name, bare(value)))

    @rule(one=some, name=NAMES, value=VALUES)
    def assign(self, one: Modelled, name: str, value: str) -> None:
        one.headers[name] = value
        one.model = set_in(one.model, name, bare(value))

    @rule(one=some, name=NAMES, value=VALUES)
    def add_line(self, one: Modelled, name: str, value: str) -> None:
        one.headers.add_line(name.lower(), f"{name}:{value}".encode("latin-1"))
        one.model.append((name, bare(value)))

    @rule(one=some, name=NAMES, value=VALUES)
    def set_line(self, one: Modelled, name: str, value: str) -> None:
        one.headers.set_line(name.lower(), f"{name}:{value}".encode("latin-1"))
        kept = [pair for pair in one.model if not same(pair[0], name)]
        one.model = [*kept, (name, bare(value))]

    @rule(one=some, names=st.frozensets(NAMES.map(str.lower)))
    def pick(self, one: Modelled, names: frozenset[str]) -> None:
        expected = [(name.lower(), value) for name, value in one.model if name.lower() in names]
        assert list(one.headers.pick(names)) == expected
        assert parted(one.headers.wire(names)) == [pair for pair in one.model if pair[0].lower() not in names]

    @rule(one=some, name=NAMES)
    def delete(self, one: Modelled, name: str) -> None:
        del one.headers[name]
        one.model = [pair for pair in one.model if not same(pair[0], name)]

    @rule(one=some, name=NAMES)
    def take(self, one: Modelled, name: str) -> None:
        assert one.headers.take(name) == [value for present, value in one.model if same(present, name)]
        one.model = [pair for pair in one.model if not same(pair[0], name)]

    @rule(one=some, fields=st.dictionaries(NAMES, VALUES, max_size=4))
    def update(self, one: Modelled, fields: dict[str, str]) -> None:
        one.headers.update(fields)
        for name, value in fields.items():
            one.model = set_in(one.model, name, bare(value))

    @rule(target=some, one=some)
    def copy(self, one: Modelled) -> Modelled:
        return self._keep(one.headers.copy(), list(one.model))

    @rule(one=some, reading=st.sampled_from(READINGS))
    def read_once(self, one: Modelled, reading: Callable[[Headers], object]) -> None:
        """It finds and leaves behind what it would in headers that nobody has read before."""
        alone = Headers(one.model)
        assert one.headers.once(reading) == reading(alone)
        one.model = list(alone.items())

    @rule(one=some, name=NOT_A_NAME, value=VALUES)
    def a_bad_name_is_refused(self, one: Modelled, name: str, value: str) -> None:
        self._refused(one, name, value)

    @rule(one=some, name=NAMES, value=NOT_A_VALUE)
    def a_bad_value_is_refused(self, one: Modelled, name: str, value: str) -> None:
        self._refused(one, name, value)

    @staticmethod
    def _refused(one: Modelled, name: str, value: str) -> None:
        assert not valid_field(name, value)
        with pytest.raises(ValueError, match="not a header field"):
            one.headers.add(name, value)
        with pytest.raises(ValueError, match="not a header field"):
            one.headers[name] = value
        with pytest.raises(ValueError, match="not a header field"):
            one.headers.update({name: value})
        with pytest.raises(ValueError, match="not a header field"):
            Headers([(name, value)])

    @invariant()
    def each_is_like_its_list(self) -> None:
        for one in self.all:
            check(one.headers, one.model)


TestHeadersAreAList = HeadersAreAList.TestCase
TestHeadersAreAList.settings = settings(max_examples=60, stateful_step_count=25, deadline=None, derandomize=True)


def block_of(pairs: list[Pair]) -> bytes:
    return "".join(f"{name}:{value}\r\n" for name, value in pairs).encode("latin-1")


def reading(reader: RequestReader, pairs: list[Pair]) -> Request:
    """The next request of a connection, with these fields."""
    reader.resume()
    request = reader.feed(b"GET / HTTP/1.1\r\nHost: a\r\n" + block_of(pairs) + b"\r\n")
    assert request is not None
    return request


def mutate(headers: Headers, how: str, name: str) -> None:
    match how:
        case "add":
            headers.add(name, "mine")
        case "assign":
            headers[name] = "mine"
        case "delete":
            del headers[name]
        case "take":
            headers.take(name)
        case "lines":
            headers.pick(frozenset({name.lower()}))
            headers.set_line(name.lower(), b"%b: mine" % name.encode())
            headers.add_line(name.lower(), b"%b: mine" % name.encode())
        case "update":
            headers.update({name: "mine", "Host": "mine"})
        case "once":
            headers.once(take_one)
            headers.once(put_one)


def after_all(pairs: list[Pair], mutations: list[tuple[str, str]]) -> list[Pair]:
    """What these leave of fields that nobody shares."""
    alone = Headers(pairs)
    for how, name in mutations:
        mutate(alone, how, name)
    return list(alone.items())


MUTATIONS = st.lists(
    st.tuples(st.sampled_from(["add", "assign", "delete", "take", "lines", "update", "once"]), NAMES | st.just("host")),
    max_size=4,
)


@calmly
@given(block=PAIRS, before=MUTATIONS, after=MUTATIONS, pipelined=st.booleans())
def test_what_is_done_to_one_request_is_never_seen_in_the_next(
    block: list[Pair], before: list[tuple[str, str]], after: list[tuple[str, str]], pipelined: bool
) -> None:
    expected = [("Host", "a"), *((name, bare(value)) for name, value in block)]
    message = b"GET / HTTP/1.1\r\nHost: a\r\n" + block_of(block) + b"\r\n"
    reader = RequestReader(Told(), 65536)
    first = reader.feed(message * (3 if pipelined else 1))
    assert first is not None
    check(first.headers, expected)
    for how, name in before:
        mutate(first.headers, how, name)
    second = reader.resume() if pipelined else reading(reader, block)
    assert second is not None
    check(second.headers, expected)
    for how, name in after:
        mutate(first.headers, how, name)
    check(second.headers, expected)
    for how, name in before:
        mutate(second.headers, how, name)
    check(second.headers, after_all(expected, before))
    third = reader.resume() if pipelined else reading(reader, block)
    assert third is not None
    check(third.headers, expected)
    check(reading(RequestReader(Told(), 65536), block).headers, expected)


@calmly
@given(block=PAIRS, mutations=MUTATIONS)
def test_what_is_done_to_one_response_is_never_seen_in_the_next(
    block: list[Pair], mutations: list[tuple[str, str]]
) -> None:
    expected = [("Content-Length", "0"), *((name, bare(value)) for name, value in block)]
    reader = ResponseReader(Told(), 65536)
    for _ in range(3):
        reader.begin("GET")
        response = reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + block_of(block) + b"\r\n")
        assert response is not None
        assert reader.complete
        check(response.headers, expected)
        for how, name in mutations:
            mutate(response.headers, how, name)


@calmly
@given(block=PAIRS, named=NAMES.filter(lambda name: name != "host"))
def test_a_field_that_connection_names_is_missing_from_each_request_and_from_no_other(
    block: list[Pair], named: str
) -> None:
    reader = RequestReader(Told(), 65536)
    pairs = [("Host", "a"), *((name, bare(value)) for name, value in block)]
    for _ in range(2):
        check(reading(reader, [*block, ("Connection", named)]).headers, [p for p in pairs if not same(p[0], named)])
        check(reading(reader, block).headers, pairs)


def test_a_line_is_read_the_same_after_thousands_of_others() -> None:
    reader = RequestReader(Told(), 65536)
    for number in range(10_000):
        pairs = [("X-Number", str(number)), ("Cookie", f"a={number}"), ("x-NUMBER", "same")]
        assert list(reading(reader, pairs).headers.items()) == [("Host", "a"), *pairs]


@given(value=st.text(st.characters(min_codepoint=0x80, max_codepoint=0xFF), min_size=1, max_size=8))
def test_latin_1_goes_out_as_the_bytes_it_came_in(value: str) -> None:
    headers = reading(RequestReader(Told(), 65536), [("X", value)]).headers
    assert headers["x"] == value
    headers["y"] = headers["x"]
    assert parted(headers.wire(frozenset({"host", "x"}))) == [("y", value)]


def test_the_same_fields_do_not_keep_what_read_them_for_ever() -> None:
    """A client that says the same for hours goes through the plugins of many configurations."""
    fields = Headers({"x-api-key": "k"})._fields
    for _ in range(1000):

        def reading(headers: Headers) -> str | None:
            return headers.get("x-api-key")

        assert Headers(fields).once(reading) == "k"
        assert len(fields.made) <= 32
