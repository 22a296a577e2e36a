"""Snapshot: what was read comes out again whole, for whoever has the descriptor, and nobody can change it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.composition import ConfigError, compose
from gateway.config.reader import read
from gateway.config.snapshot import Snapshot, read_snapshot
from gateway.config.source import Place, Source

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=30)
STEPS = st.lists(st.text(max_size=9) | st.integers(0, 99), max_size=4).map(tuple)
PLACES = st.builds(Place, st.integers(0, 9), st.integers(1, 999), st.integers(1, 99), st.text(max_size=9))


def again(source: Source) -> Source:
    snapshot = Snapshot(source)
    try:
        return read_snapshot(snapshot.descriptor)
    finally:
        snapshot.close()
        snapshot.close()


@given(
    value=VALUES,
    written=st.dictionaries(STEPS, st.text()),
    values=st.dictionaries(STEPS, PLACES),
    keys=st.dictionaries(STEPS, PLACES),
)
def test_whatever_was_read_comes_out_again(value: Any, written: Any, values: Any, keys: Any) -> None:
    source = Source("gateway.yaml")
    source.value, source.written, source.values, source.keys = value, written, values, keys
    found = again(source)
    assert (found.value, found.written, found.values, found.keys) == (value, written, values, keys)
    assert repr(found.value) == repr(value)  # 1 is 1.0 and True to Python, but not to a reader of the file


def test_nothing_is_put_in_for_anything_a_second_time(here: Path) -> None:
    Path("gateway.yaml").write_text("plain: $${HOME}\nsecret: ${SECRET}\n")
    source = read("gateway.yaml", {"SECRET": "${PATH} $${X} !include me"})
    assert again(source).value == {"plain": "${HOME}", "secret": "${PATH} $${X} !include me"}


def test_what_is_wrong_is_said_as_if_the_file_had_been_read(here: Path) -> None:
    Path("gateway.yaml").write_text("listeners: []\nroutes: [{name: r, upstream: '${WHERE}'}]\n")
    source = read("gateway.yaml", {"WHERE": "a secret"})
    lines = []
    for each in (again(source), source):
        with pytest.raises(ConfigError) as refusal:
            compose(each)
        lines.append(refusal.value.errors)
    assert lines[0] == lines[1]
    assert 'gateway.yaml:2: routes[0].upstream: unknown upstream "${WHERE}"' in lines[0]


def test_nobody_can_change_it_and_any_number_can_read_it(here: Path) -> None:
    Path("gateway.yaml").write_text("a: 1\n")
    snapshot = Snapshot(read("gateway.yaml", {}))
    with pytest.raises(PermissionError):
        os.pwrite(snapshot.descriptor, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(snapshot.descriptor, 0)
    other = os.dup(snapshot.descriptor)
    snapshot.close()
    assert [read_snapshot(other).value for _ in range(3)] == [{"a": 1}] * 3
    os.close(other)


def test_the_fingerprint_is_of_what_is_written(here: Path) -> None:
    def fingerprint(text: str, **environment: str) -> str:
        Path("gateway.yaml").write_text(text)
        return again(read("gateway.yaml", environment)).fingerprint()

    first = fingerprint("a: ${SECRET}\nb: 1\n", SECRET="one")
    assert first == fingerprint("b: 1\na: ${SECRET}  # another order\n", SECRET="two")
    assert first != fingerprint("a: ${SECRET}\nb: 2\n", SECRET="one")
    assert len(first) == 12
    assert int(first, 16) < 2**53  # a gauge holds it exactly
