"""The checks of the W3C's test suite for Trace Context (its 41 as of June 2026), each as bytes in and bytes out.

https://github.com/w3c/trace-context/tree/main/test says what they are; the names here are the suite's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from plugins.trace import Trace
from tests.fixtures.conversation import calling, serving
from tests.fixtures.heads import named
from tests.fixtures.wire import Target
from tests.play import Stage

TRACE = "12345678901234567890123456789012"
OTHER = "12345678901234567890123456789011"
SPAN = "1234567890123456"
PARENT = f"traceparent: 00-{TRACE}-{SPAN}-00"
VALID = re.compile(rf"00-(?!0{{32}})([0-9a-f]{{32}})-(?!0{{16}}|{SPAN})([0-9a-f]{{16}})-0([0-3])")
VALUE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) not in ",=")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789_-*/"
BARS = [f"bar{number:02}={number:02}" for number in range(1, 34)]


@dataclass
class Heard:
    """What the upstream heard: exactly one valid `traceparent`, and the members of at most one `tracestate`."""

    trace_id: str
    span_id: str
    flags: int
    members: list[str]


async def heard(stage: Stage, *fields: str, times: int = 1) -> list[Heard]:
    """What an upstream hears if a client sends these fields, so many times."""
    found = []
    async with serving(Target(), stage.make(Trace)) as edge, calling(edge) as client:
        for _ in range(times):
            lines = "".join(f"{field}\r\n" for field in fields)
            await client.say(f"GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode())
            assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
    for head in edge.target.text.split(b"\r\n\r\n")[:-1]:
        sent = head.split(b"\r\n")[1:]
        (parent,) = named(sent, b"traceparent")
        match = VALID.fullmatch(parent.decode())
        assert match, parent
        states = [state.strip(b" \t") for state in named(sent, b"tracestate")]
        assert len(states) <= 1
        assert b"" not in states
        members = re.split(r"[ \t]*,[ \t]*", states[0].decode()) if states else []
        found.append(Heard(match[1], match[2], int(match[3]), members))
    return found


def parent(value: str, name: str = "traceparent") -> list[str]:
    return [f"{name}: {value}"]


NEW_TRACE = {
    "both_traceparent_and_tracestate_missing": [[]],
    "traceparent_duplicated": [parent(f"00-{OTHER}-{SPAN}-01") + parent(f"00-{TRACE}-{SPAN}-01")],
    "traceparent_header_name": [
        parent(f"00-{TRACE}-{SPAN}-01", "trace-parent"),
        parent(f"00-{TRACE}-{SPAN}-01", "trace.parent"),
    ],
    "traceparent_version_0x00": [
        parent(f"00-{TRACE}-{SPAN}-01."),
        parent(f"00-{TRACE}-{SPAN}-01-what-the-future-will-be-like"),
    ],
    "traceparent_version_0xcc (no dash)": [parent(f"cc-{TRACE}-{SPAN}-01.what-the-future-will-be-like")],
    "traceparent_version_0xff": [parent(f"ff-{TRACE}-{SPAN}-01")],
    "traceparent_version_illegal_characters": [parent(f".0-{TRACE}-{SPAN}-01"), parent(f"0.-{TRACE}-{SPAN}-01")],
    "traceparent_version_too_long": [parent(f"000-{TRACE}-{SPAN}-01"), parent(f"0000-{TRACE}-{SPAN}-01")],
    "traceparent_version_too_short": [parent(f"0-{TRACE}-{SPAN}-01")],
    "traceparent_trace_id_all_zero": [parent(f"00-{'0' * 32}-{SPAN}-01")],
    "traceparent_trace_id_illegal_characters": [
        parent(f"00-.{TRACE[1:]}-{SPAN}-01"),
        parent(f"00-{TRACE[:-1]}.-{SPAN}-01"),
    ],
    "traceparent_trace_id_too_long": [parent(f"00-{TRACE}3-{SPAN}-01")],
    "traceparent_trace_id_too_short": [parent(f"00-{TRACE[:-1]}-{SPAN}-01")],
    "traceparent_parent_id_all_zero": [parent(f"00-{TRACE}-{'0' * 16}-01")],
    "traceparent_parent_id_illegal_characters": [
        parent(f"00-{TRACE}-.{SPAN[1:]}-01"),
        parent(f"00-{TRACE}-{SPAN[:-1]}.-01"),
    ],
    "traceparent_parent_id_too_long": [parent(f"00-{TRACE}-{SPAN}7-01")],
    "traceparent_parent_id_too_short": [parent(f"00-{TRACE}-{SPAN[:-1]}-01")],
    "traceparent_trace_flags_illegal_characters": [parent(f"00-{TRACE}-{SPAN}-.0"), parent(f"00-{TRACE}-{SPAN}-0.")],
    "traceparent_trace_flags_too_long": [parent(f"00-{TRACE}-{SPAN}-001")],
    "traceparent_trace_flags_too_short": [parent(f"00-{TRACE}-{SPAN}-1")],
    "tracestate_included_traceparent_missing": [["tracestate: foo=1"], ["tracestate: foo=1,bar=2"]],
    # Ours: what the suite does not ask and the Recommendation says.
    "upper case": [
        parent(f"00-{'A' * 32}-{SPAN}-01"),
        parent(f"00-{TRACE}-{SPAN}-0A"),
        parent(f"CC-{TRACE}-{SPAN}-01"),
    ],
    "a higher version is no better than its parts": [
        parent(f"cc-{'0' * 32}-{SPAN}-01"),
        parent(f"cc-{TRACE}-{'0' * 16}-01"),
        parent(f"cc-{TRACE}-{SPAN}-1"),
        parent(f"cc-{TRACE}-{SPAN}"),
    ],
    "two that agree, and an empty one": [
        parent(f"00-{TRACE}-{SPAN}-01") * 2,
        parent("") + parent(f"00-{TRACE}-{SPAN}-01"),
        parent(f"00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01"),
    ],
}

SAME_TRACE = {
    "traceparent_included_tracestate_missing": [parent(f"00-{TRACE}-{SPAN}-01")],
    "traceparent_header_name_valid_casing": [
        parent(f"00-{TRACE}-{SPAN}-01", name) for name in ("TraceParent", "TrAcEpArEnT", "TRACEPARENT")
    ],
    "traceparent_version_0xcc": [
        parent(f"cc-{TRACE}-{SPAN}-01"),
        parent(f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like"),
    ],
    "traceparent_ows_handling": [
        [f"traceparent:{before}00-{TRACE}-{SPAN}-01{after}"]
        for before, after in ((" ", ""), ("\t", ""), ("", " "), ("", "\t"), ("\t ", " \t"))
    ],
}

KEPT = {
    "tracestate_included_traceparent_included": [(["foo=1,bar=2"], ["foo=1", "bar=2"])],
    "tracestate_empty_header": [(["foo=1", ""], ["foo=1"]), (["", "foo=1"], ["foo=1"])],
    "tracestate_multiple_headers_different_keys": [
        (["foo=1,bar=2", "rojo=1,congo=2", "baz=3"], ["foo=1", "bar=2", "rojo=1", "congo=2", "baz=3"])
    ],
    "tracestate_duplicated_keys": [
        (["foo=1,foo=1"], ["foo=1", "foo=1"]),
        (["foo=1,foo=2"], ["foo=1", "foo=2"]),
        (["foo=1", "foo=1"], ["foo=1", "foo=1"]),
        (["foo=1", "foo=2"], ["foo=1", "foo=2"]),
    ],
    "tracestate_all_allowed_characters": [
        ([f"{key}={VALUE}"], [f"{key}={VALUE}"]) for key in (LETTERS, f"{LETTERS}@a-z0-9_-*/")
    ],
    "tracestate_ows_handling": [
        (["foo=1 \t , \t bar=2, \t baz=3"], ["foo=1", "bar=2", "baz=3"]),
        (["foo=1\t \t,\t \tbar=2,\t \tbaz=3"], ["foo=1", "bar=2", "baz=3"]),
        *(([line], ["foo=1"]) for line in (" foo=1", "\tfoo=1", "foo=1 ", "foo=1\t", "\t foo=1 \t")),
    ],
    "tracestate_key_illegal_vendor_format (those of Level 2)": [
        ([f"{key}=1,bar=2"], [f"{key}=1", "bar=2"]) for key in ("foo@", "foo@@bar", "foo@bar@baz", "1foo")
    ],
    "tracestate_member_count_limit": [
        ([",".join(BARS[:10]), ",".join(BARS[10:20]), ",".join(BARS[20:30]), ",".join(BARS[30:32])], BARS[:32])
    ],
    "tracestate_key_length_limit": [
        (["foo=1", f"{key}=1"], ["foo=1", f"{key}=1"])
        for key in ("z" * 256, "t" * 241 + "@" + "v" * 14, "t" * 242 + "@v", "t@" + "v" * 15)
    ],
    # Ours.
    "a value may begin with spaces": [(["foo=  1"], ["foo=  1"])],
    "empty members are members": [([",,foo=1, ,bar=2,"], ["", "", "foo=1", "", "bar=2", ""])],
    "of any length": [([f"k{number}={'x' * 256}" for number in range(32)],) * 2],
}

DROPPED = {
    "tracestate_empty_header (nothing else)": [[""], ["", ""], [" ,\t, "]],
    "tracestate_key_illegal_characters": [["foo =1"], ["FOO=1"], ["foo.bar=1"]],
    "tracestate_key_illegal_vendor_format": [["@foo=1,bar=2"]],
    "tracestate_member_count_limit": [[",".join(BARS[:20]), ",".join(BARS[20:33])]],
    "tracestate_key_length_limit": [["foo=1", f"{'z' * 257}=1"]],
    "tracestate_value_illegal_characters": [["foo=bar=baz"], ["foo=,bar=3"]],
    # Ours.
    "a value of 257 characters": [[f"foo={'x' * 257}"]],
    "no value, no key": [["foo"], ["=1"], ["foo=1,bar"], ["foo=1;bar=2"], ["foo=é"]],
    "33 members, empty ones among them": [[",".join(BARS[:32]) + ","], [",".join(BARS[:16]), "," * 16]],
}


def each(cases: dict[str, list]) -> list:
    """Every case of every check, under the check's name."""
    return [pytest.param(case, id=name) for name, several in cases.items() for case in several]


@pytest.mark.parametrize("fields", each(NEW_TRACE))
async def test_a_new_trace_begins(stage: Stage, fields: list[str]):
    (one,) = await heard(stage, *fields)
    assert one.trace_id not in (TRACE, OTHER)
    assert one.flags == 3  # sampled by us, its last 7 bytes random
    assert one.members == []


@pytest.mark.parametrize("fields", each(SAME_TRACE))
async def test_the_trace_goes_on(stage: Stage, fields: list[str]):
    (one,) = await heard(stage, *fields)
    assert one.trace_id == TRACE
    assert one.members == []


@pytest.mark.parametrize(("lines", "members"), [pytest.param(*case.values[0], id=case.id) for case in each(KEPT)])
async def test_tracestate_goes_on(stage: Stage, lines: list[str], members: list[str]):
    (one,) = await heard(stage, PARENT, *(f"tracestate: {line}" for line in lines))
    assert (one.trace_id, one.members) == (TRACE, members)


@pytest.mark.parametrize("lines", each(DROPPED))
async def test_tracestate_is_dropped_whole(stage: Stage, lines: list[str]):
    (one,) = await heard(stage, PARENT, *(f"tracestate: {line}" for line in lines))
    assert (one.trace_id, one.members) == (TRACE, [])


@pytest.mark.parametrize("name", ["TraceState", "TrAcEsTaTe", "TRACESTATE"])
async def test_tracestate_header_name_valid_casing(stage: Stage, name: str):
    assert (await heard(stage, PARENT, f"{name}: foo=1"))[0].members == ["foo=1"]


@pytest.mark.parametrize("name", ["trace-state", "trace.state"])
async def test_tracestate_header_name(stage: Stage, name: str):
    assert (await heard(stage, PARENT, f"{name}: foo=1"))[0].members == []


async def test_multiple_requests_with_valid_traceparent(stage: Stage):
    several = await heard(stage, PARENT, times=3)
    assert [one.trace_id for one in several] == [TRACE] * 3
    assert len({one.span_id for one in several}) == 3


@pytest.mark.parametrize("fields", [[], parent(f"00-{'0' * 32}-{SPAN}-01")])
async def test_multiple_requests_that_begin_a_trace(stage: Stage, fields: list[str]):
    """`multiple_requests_without_traceparent` and `multiple_requests_with_illegal_traceparent`."""
    several = await heard(stage, *fields, times=3)
    assert len({one.trace_id for one in several}) == len({one.span_id for one in several}) == 3


@pytest.mark.parametrize(("sent", "random"), [("02", 2), ("03", 2), ("00", 0), ("01", 0), ("ff", 2), ("fc", 0)])
async def test_propagates_random_flag(stage: Stage, sent: str, random: int):
    """And no flag that Level 2 does not know."""
    (one,) = await heard(stage, f"traceparent: 00-{TRACE}-{SPAN}-{sent}")
    assert one.flags == random | 1
