"""Trace context: what `traceparent` and `tracestate` say, read by the letter of the W3C's Trace Context.

Level 1 is the Recommendation; of Level 2 the flag for random trace ids is kept, and the wider keys of `tracestate` are
taken, as the W3C's own test suite asks: every key of Level 1 is one of Level 2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.headers import Field

SAMPLED: Final = 1
RANDOM: Final = 2
"""Trace flags: spans may have been recorded; the last 7 bytes of the trace id are random (Level 2)."""
MOST_MEMBERS: Final = 32

# A version above 00 may go on after the flags, behind a dash; 00 may not, and ff is none (§3.2.2, §3.2.4).
_TRACEPARENT: Final = re.compile(
    r"(?!ff|00.{54})[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)
KEY: Final = re.compile(r"[a-z0-9][a-z0-9_*/@-]{0,255}")
_MEMBER: Final = re.compile(rf"({KEY.pattern})=[ -+\--<>-~]{{0,255}}[!-+\--<>-~]")
_KNOWN_FLAGS: Final = {f"{flags:02x}": flags & (SAMPLED | RANDOM) for flags in range(256)}


class Parent(msgspec.Struct, frozen=True, gc=False):
    """The span that a request comes from: ids in lower-case hexadecimal, the flags we know, its `tracestate`."""

    trace_id: str
    span_id: str
    flags: int
    state: str


def read_parent(fields: Sequence[Field]) -> Parent | None:
    """What the `traceparent` and `tracestate` fields of a request say, or None: then a new trace begins.

    A `tracestate` that is not valid is dropped whole, and does not harm the `traceparent`.
    """
    claim: str | None = None
    states: list[str] = []
    for name, value in fields:
        if name == "tracestate":
            states.append(value)
        elif claim is not None:
            return None
        else:
            claim = value
    match = _TRACEPARENT.fullmatch(claim or "")
    if match is None:
        return None
    trace_id, span_id, flags = match.groups()
    return Parent(trace_id, span_id, _KNOWN_FLAGS[flags], read_state(states) if states else "")


def read_state(lines: Sequence[str]) -> str:
    """The `tracestate` of several fields as one, without its empty members; empty if it is not valid (§3.3.1).

    It is valid up to 32 members, empty ones among them, of any total length. Keys that come twice are for their
    sender to mend, and stay as they are.
    """
    members = ",".join(lines).split(",", MOST_MEMBERS)
    if len(members) > MOST_MEMBERS:
        return ""
    kept = [stripped for member in members if (stripped := member.strip(" \t"))]
    return ",".join(kept) if all(map(_MEMBER.fullmatch, kept)) else ""


def with_member(state: str, key: str, value: str) -> str:
    """A valid `tracestate` with our member in front, and no other under its key; the last one goes if it was full."""
    others = [member for member in state.split(",") if member and not member.startswith(f"{key}=")]
    return ",".join([f"{key}={value}", *others[: MOST_MEMBERS - 1]])
