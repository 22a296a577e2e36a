"""Reading: the number at a path is the one that json.loads finds, however the body was cut, packed or streamed.

ODD is what json.loads reads and this does not.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.headers import Headers
from plugins.metering.reading import LARGEST_QUANTITY, TAIL, JsonReading
from tests.fixtures.messages import CUTS, byte_by_byte, cut

often = settings(max_examples=250, deadline=None, derandomize=True)
LIMIT = 4096
Path = tuple[str, ...]

KEYS = st.sampled_from(["usage", "total", "0", "1", "-1", "", "ü"]) | st.text(max_size=3)
NUMBERS = (
    st.integers(0, 100)
    | st.sampled_from([-1, 0.0, -0.0, 1.0, 1.5, 1e3, 1e20, LARGEST_QUANTITY, LARGEST_QUANTITY + 1, 2**64, -(2**63) - 1])
    | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.none() | st.booleans() | NUMBERS | NUMBERS | st.text(max_size=4)
DOCUMENTS = st.recursive(
    VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)


@st.composite
def documents(draw: st.DrawFn) -> tuple[Any, Path]:
    """A document, and a path that mostly leads to something in it."""
    document = value = draw(DOCUMENTS)
    path: list[str] = []
    while isinstance(value, (dict, list)) and value and draw(st.sampled_from([True] * 9 + [False])):
        step = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
        path.append(str(step))
        value = value[step]
    return document, tuple([*path, *draw(st.lists(KEYS, max_size=1))] if draw(st.booleans()) else path)


def number_in(text: bytes, path: Path) -> int | None:
    """What json.loads finds there, if it is a whole number from 0 to the largest. JSON has no NaN, and no infinity."""

    def refuse(_: str) -> None:
        raise ValueError

    try:
        value = json.loads(text.decode(), parse_constant=refuse)
    except ValueError:
        return None
    for step in path:
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    if type(value) not in (int, float) or value != value // 1 or not 0 <= value <= LARGEST_QUANTITY:
        return None
    return int(value)


def read(pieces: list[bytes], path: Path, kind: str = "application/json", coding: str = "", limit: int = LIMIT) -> Any:
    reading = JsonReading(Headers({"content-type": kind, **({"content-encoding": coding} if coding else {})}), limit)
    for piece in pieces:
        reading.add(piece)
    found = reading.number_at(path)
    assert reading.number_at(path) == found, "another meter reads the same"
    return found


@often
@given(pair=documents(), ascii_only=st.booleans(), indent=st.sampled_from([None, 0, 2]), places=CUTS)
def test_the_number_is_the_one_that_json_finds(
    pair: tuple[Any, Path], ascii_only: bool, indent: int | None, places: list[int]
) -> None:
    document, path = pair
    text = json.dumps(document, ensure_ascii=ascii_only, indent=indent).encode()
    for pieces in ([text], cut(text, places), byte_by_byte(text)):
        assert read(pieces, path) == number_in(text, path)


@often
@given(
    pair=documents(),
    place=st.integers(0, 400),
    length=st.integers(0, 2),
    wrong=st.sampled_from(
        [b"", b"1", b"0", b"-", b".", b"e", b"}", b"]", b",", b'"', b"\\", b"\n", b"\0", b"\xff", b" "]
    ),
)
def test_what_is_nearly_json_is_read_as_json_reads_it(
    pair: tuple[Any, Path], place: int, length: int, wrong: bytes
) -> None:
    document, path = pair
    text = json.dumps(document).encode()
    at = place % (len(text) + 1)
    text = text[:at] + wrong + text[at + length :]
    assert read([text], path) == number_in(text, path)


@often
@given(pairs=st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 9)), min_size=1, max_size=5))
def test_of_a_key_that_comes_twice_the_last_counts(pairs: list[tuple[str, int]]) -> None:
    text = ("{" + ",".join(f'"{key}": {value}' for key, value in pairs) + "}").encode()
    assert read([text], ("a",)) == number_in(text, ("a",))


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "Deflate ": lambda text: zlib.compress(text, wbits=-15),
}


@often
@given(pair=documents(), coding=st.sampled_from(sorted(PACKED)), places=CUTS, missing=st.integers(0, 3))
def test_packed_it_is_the_same_and_cut_short_it_is_nothing(
    pair: tuple[Any, Path], coding: str, places: list[int], missing: int
) -> None:
    document, path = pair
    text = json.dumps(document).encode()
    packed = PACKED[coding](text)
    packed = packed[: len(packed) - missing]
    assert read(cut(packed, places), path, coding=coding) == (None if missing else number_in(text, path))


@often
@given(size=st.integers(-2, 2), coding=st.sampled_from(["", *sorted(PACKED)]), seed=st.binary(max_size=4), places=CUTS)
def test_a_document_is_read_up_to_the_limit_and_not_beyond(
    size: int, coding: str, seed: bytes, places: list[int]
) -> None:
    text = b'{"a":1,"b":"' + b"".join(sha256(seed + b"%d" % number).hexdigest().encode() for number in range(80))
    text = text[: LIMIT + size - 2] + b'"}'
    body = PACKED[coding](text) if coding else text
    assert read(cut(body, places), ("a",), coding=coding) == (1 if size <= 0 else None)


ODD = {
    "a number beyond all others": b'{"a":1,"b":1e400}',
    "half a surrogate pair": b'{"a":1,"b":"\\ud83d"}',
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_what_msgspec_does_not_take_spoils_nothing_else(text: bytes) -> None:
    assert read([text], ("a",)) == number_in(text, ("a",)) == 1
    assert read([text], ("b",)) is None


@often
@given(
    spelled=st.from_regex(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?", fullmatch=True),
)
def test_a_number_is_the_same_however_it_is_spelled(spelled: str) -> None:
    text = b'{"a":' + spelled.encode() + b"}"
    assert read([text], ("a",)) == number_in(text, ("a",))


LINE_ENDS = st.sampled_from(["\n", "\r\n", "\r"])
STREAMS = {"text/event-stream": ["data: ", "data:"], "application/x-ndjson": [""], "application/json-seq": ["\x1e"]}
BETWEEN = st.sampled_from(["", ": ping", "event: x", "data: [DONE]", "data:", "retry: 10", "data: {", "id: {}"])


USAGES = st.builds(lambda value: ({"usage": {"n": value}}, ("usage", "n")), VALUES)


@st.composite
def streams(draw: st.DrawFn) -> tuple[str, str, list[str], Path]:
    """A kind of stream, its text, its documents in order, and a path into one of them."""
    kind = draw(st.sampled_from(sorted(STREAMS)))
    pairs = draw(st.lists(documents() | USAGES, min_size=1, max_size=5))
    end = draw(LINE_ENDS)
    texts, lines = [], []
    for document, _ in pairs:
        text = json.dumps(document, ensure_ascii=False)
        texts.append(text)
        lines += [draw(st.sampled_from(STREAMS[kind])) + text, *draw(st.lists(BETWEEN, max_size=2))]
    return kind, end.join([*lines, ""]), texts, draw(st.sampled_from(pairs))[1]


@often
@given(stream=streams(), places=CUTS, coding=st.sampled_from(["", "", "gzip"]))
def test_in_a_stream_the_last_event_that_has_the_number_counts(
    stream: tuple[str, str, list[str], Path], places: list[int], coding: str
) -> None:
    """An event is an object or an array."""
    kind, text, documents_in_order, path = stream
    events = [each.encode() for each in documents_in_order if each.startswith(("{", "["))]
    found = [number for each in events if (number := number_in(each, path)) is not None]
    body = PACKED[coding](text.encode()) if coding else text.encode()
    assert read(cut(body, places), path, kind, coding) == (found[-1] if found else None)


@settings(often, max_examples=100)
@given(
    before=st.integers(0, 2 * TAIL),
    after=st.integers(0, 2 * TAIL),
    piece=st.sampled_from([1000, 50_000, TAIL, 3 * TAIL, 10 * TAIL]),
)
def test_the_tail_of_a_long_stream_is_enough_and_nothing_half_is_read(before: int, after: int, piece: int) -> None:
    """A number is found if its line is in the tail; of a line that is cut off there nothing is taken for the whole."""
    line = b'data: {"x":{"usage":{"n":7}}}'
    text = b": " + b"a" * before + b"\n" + line + b"\n" + b": " + b"b" * after + b"\n"
    pieces = [text[at : at + piece] for at in range(0, len(text), piece)]
    inside = len(text) - text.index(line) <= TAIL
    assert read(pieces, ("x", "usage", "n"), "text/event-stream") == (7 if inside else None)
    assert read(pieces, ("usage", "n"), "text/event-stream") is None
    assert read(pieces, ("n",), "text/event-stream") is None


def test_a_step_that_is_no_index_leads_nowhere() -> None:
    assert read([b"[1, 2, 3]"], ("\u00b2",)) is None


def test_an_event_may_spread_its_document_over_lines() -> None:
    text = b'data: {"usage":\ndata: {"n": 7}\ndata: }\n\ndata: [DONE]\n\n'
    assert read([text], ("usage", "n"), "text/event-stream") == 7
