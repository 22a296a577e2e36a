"""Reading: types, substitutions, includes, anchors; and each thing that can be wrong with a file, with its line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config.reader import MAX_FILE_BYTES, read
from gateway.config.source import ConfigError, error_lines

ENVIRONMENT = {"NAME": "value", "EMPTY": "", "NUMBER": "7", "_x1": "underscore"}


def values(text: str) -> Any:
    """What a file with this text says. Fails if anything was wrong with it."""
    Path("gateway.yaml").write_text(text)
    source = read("gateway.yaml", ENVIRONMENT)
    assert not source.faults, error_lines(source.faults)
    return source.value


def complaints(text: str) -> list[str]:
    """The lines that reading a file with this text leads to."""
    Path("gateway.yaml").write_text(text)
    try:
        return error_lines(read("gateway.yaml", ENVIRONMENT).faults)
    except ConfigError as error:
        return error.errors


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1", {"a": 1}),
        ("a: 0x1F", {"a": 31}),
        ("a: 0o17", {"a": 15}),
        ("a: 007", {"a": 7}),
        ("a: -1.5e3", {"a": -1500.0}),
        ("a: true", {"a": True}),
        ("a: FALSE", {"a": False}),
        ("a: [null, ~, ]", {"a": [None, None]}),
        ("a:", {"a": None}),
        ("on: yes", {"on": "yes"}),
        ("true: off", {"true": "off"}),
        ("8080: x", {"8080": "x"}),
        ("a: 12:30:45", {"a": "12:30:45"}),
        ("a: 2026-01-01", {"a": "2026-01-01"}),
        ("a: 1_000", {"a": "1_000"}),
        ("a: .inf", {"a": ".inf"}),
        ('a: "1"', {"a": "1"}),
        ("a: !!str 1", {"a": "1"}),
        ("a: !!int '12'", {"a": 12}),
        ("a: |\n  two\n  lines\n", {"a": "two\nlines\n"}),
        ("\ufeffa: 1", {"a": 1}),
    ],
)
def test_values_have_the_types_of_yaml_1_2(here: Path, text: str, value: Any) -> None:
    assert values(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${NAME}", "value"),
        ("x${NAME}y${NUMBER}", "xvaluey7"),
        ("${NUMBER}", "7"),
        ("${_x1}", "underscore"),
        ("${EMPTY}", ""),
        ("${EMPTY:-instead}", "instead"),
        ("${MISSING:-http://[::1]:80/?a=b}", "http://[::1]:80/?a=b"),
        ("${MISSING:-}", ""),
        ("$${NAME}", "${NAME}"),
        ("$$${NAME}", "$${NAME}"),
        ("a:${method}", "a:{method}"),
        ("$${method}", "${method}"),
        ("$NAME $ {NAME}", "$NAME $ {NAME}"),
        ("${file:secret}", "s3cr3t"),
        ("${file:sub/two}", "a\n"),
    ],
)
def test_substitution(here: Path, text: str, value: str) -> None:
    Path("sub").mkdir()
    Path("secret").write_text("s3cr3t\n")
    Path("sub/two").write_text("a\n\n")
    assert values(f"a: '{text}'") == {"a": value}


def test_what_is_not_text_is_never_substituted(here: Path) -> None:
    assert values("${NAME}: 1") == {"${NAME}": 1}


def test_includes_are_relative_to_the_file_that_includes(here: Path) -> None:
    Path("config").mkdir()
    Path("config/plans.yaml").write_text("starter: !include more/starter.yaml\nsecret: ${file:secret}\n")
    Path("config/secret").write_text("hush")
    Path("config/more").mkdir()
    Path("config/more/starter.yaml").write_text("[1, 2]")
    assert values("plans: !include config/plans.yaml") == {"plans": {"starter": [1, 2], "secret": "hush"}}


def test_anchors_and_merge_keys(here: Path) -> None:
    text = """
base: &base {a: 1, b: 2}
other: &other {b: 3, c: 4}
one: {<<: *base, b: 9}
two: {<<: [*base, *other]}
three: *base
"""
    value = values(text)
    assert value["one"] == {"a": 1, "b": 9}
    assert value["two"] == {"a": 1, "b": 2, "c": 4}
    assert value["three"] == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "gateway.yaml: the file is empty"),
        ("# only this", "gateway.yaml: the file holds no values, only comments"),
        ("a: 1\n\tb: 2", "gateway.yaml:2: not valid YAML: a tab is used for indentation (use spaces)"),
        (
            "a: b: c",
            'gateway.yaml:1: not valid YAML: a second ":" on this line (put text that contains ": " in quotes)',
        ),
        ("a: 1\n b: 2\nc: 3", 'gateway.yaml:2: not valid YAML: a second ":" on this line (put text'),
        ("a:\n  - 1\n b: 2", "gateway.yaml:3: not valid YAML: the indentation does not fit the lines above"),
        ("a: {b: ${NAME}}", "gateway.yaml:1: not valid YAML: a second `{` (between braces, put `${…}` in quotes)"),
        ("a: [1,\nb: 2", "gateway.yaml:1: not valid YAML: this bracket or brace is never closed"),
        ("a: 1\nb: 'x\nc: 2", "gateway.yaml:2: not valid YAML: this quote is never closed"),
        ("a: *nowhere", 'gateway.yaml:1: not valid YAML: no anchor is named "nowhere"'),
        ("a: 1\n---\nb: 2", "gateway.yaml:2: not valid YAML: only one document is read; remove what follows `---`"),
        ("a: \x07", "gateway.yaml:1: not valid YAML: a control character, which YAML does not allow"),
        ('a: "\\UFFFFFFFF"', "gateway.yaml: not valid YAML: an escape in a quoted text names no character"),
        ("[" * 5000, "gateway.yaml: lists and blocks are nested too deeply"),
        ("a: 1\nb: 2\na: 3", 'gateway.yaml:3: duplicate key "a" (first in gateway.yaml:1)'),
        ("x: {a: 1, a: 2}", 'gateway.yaml:1: x: duplicate key "a" (first in gateway.yaml:1)'),
        ("? [1]\n: 2", "gateway.yaml:1: a key must be text"),
        ("a: !python/object:os.system x", 'gateway.yaml:1: a: unknown tag "!python/object:os.system"'),
        ("a: !!set {x}", 'gateway.yaml:1: a: unknown tag "tag:yaml.org,2002:set"'),
        ("a: !!int many", "gateway.yaml:1: a: not a number that can be read"),
        ("a: " + "9" * 5000, "gateway.yaml:1: a: not a number that can be read"),
        ("a: &a [*a]", "gateway.yaml:1: a[0]: an alias stands inside what it names"),
        ("a: &a {<<: *a}", "gateway.yaml:1: a: an alias stands inside what it names"),
        ("a: {<<: 1}", "gateway.yaml:1: a: `<<` takes a block, or a list of blocks"),
        ("a:\n  - ${MISSING}", "gateway.yaml:2: a[0]: ${MISSING}: this environment variable is not set"),
        ("a: ${1NAME}", "gateway.yaml:1: a: ${1NAME}: not the name of an environment variable"),
        ("a: ${NAME", "gateway.yaml:1: a: a `${` without its `}`"),
        ("a: '${A:-${NAME}}'", "gateway.yaml:1: a: a `${` without its `}`, or one inside another"),
        ("a: ${file:no}", "gateway.yaml:1: a: ${file:no}: cannot be read: No such file or directory"),
        ("a: ${file:.}", "gateway.yaml:1: a: ${file:.}: cannot be read: Is a directory"),
        ("a: !include no.yaml", "gateway.yaml:1: a: `!include no.yaml`: cannot be read: No such file or directory"),
        ('a: !include "x\\0y"', "gateway.yaml:1: a: `!include x\\x00y`: cannot be read: embedded null byte"),
        ("a: !include", "gateway.yaml:1: a: `!include` takes the path of one file"),
        ("a: !include [x]", "gateway.yaml:1: a: `!include` takes the path of one file"),
        ("a: !include gateway.yaml", "gateway.yaml:1: a: `!include gateway.yaml` goes in a circle: gateway.yaml → "),
        ("a: !include broken.yaml", "broken.yaml:2: a: not valid YAML: "),
        ("a: !include wrong.yaml", 'wrong.yaml:2: a: duplicate key "x" (first in wrong.yaml:1)'),
        (
            "a: !include circle.yaml",
            "circle.yaml:1: a.b: `!include gateway.yaml` goes in a circle: gateway.yaml → ci",
        ),
        ("a: !include latin1.yaml", "gateway.yaml:1: a: `!include latin1.yaml`: is not UTF-8 (line 2)"),
    ],
)
def test_what_cannot_be_read_is_one_line(here: Path, text: str, line: str) -> None:
    Path("broken.yaml").write_text("x: 1\n]")
    Path("wrong.yaml").write_text("x: 1\nx: 2")
    Path("circle.yaml").write_text("b: !include gateway.yaml")
    Path("latin1.yaml").write_bytes(b"x: 1\ny: \xe9\n")
    found = complaints(text)
    assert len(found) == 1
    assert found[0].startswith(line)


def test_a_file_that_is_not_there(here: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read("nowhere.yaml", {})
    assert caught.value.errors == ["nowhere.yaml: cannot be read: No such file or directory"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(here: Path) -> None:
    Path("gateway.yaml").touch(mode=0)
    with pytest.raises(ConfigError, match=r"^gateway\.yaml: cannot be read: Permission denied$"):
        read("gateway.yaml", {})


def test_a_file_that_is_not_utf_8(here: Path) -> None:
    Path("gateway.yaml").write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(ConfigError) as caught:
        read("gateway.yaml", {})
    assert caught.value.errors == ["gateway.yaml: is not UTF-8 (line 2)"]


def test_a_file_without_end(here: Path) -> None:
    assert complaints("a: " + "x" * MAX_FILE_BYTES) == ["gateway.yaml: is larger than 1024KiB"]


def test_aliases_cannot_blow_up(here: Path) -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
    found = complaints(bomb)
    assert len(found) == 1
    assert found[0].endswith("more than 50000 values, aliases counted out")


def test_includes_cannot_blow_up(here: Path) -> None:
    Path("leaf.yaml").write_text("1")
    found = complaints("a: [" + "!include leaf.yaml, " * 101 + "]")
    assert found == ["gateway.yaml:1: more than 100 files are included"]


def test_every_fault_is_found_in_reading_order(here: Path) -> None:
    Path("part.yaml").write_text("x: ${ONE}\ny: ${TWO}")
    found = complaints("a: !include part.yaml\nb: ${THREE}${FOUR}\nc: {d: 1, d: 2}\n")
    assert [line.split(": ")[0] for line in found] == [
        "gateway.yaml:2",
        "gateway.yaml:2",
        "gateway.yaml:3",
        "part.yaml:1",
        "part.yaml:2",
    ]


def test_many_faults_are_cut_short(here: Path) -> None:
    found = complaints("a: [" + "'${NOPE}', " * 150 + "]")
    assert len(found) == 101
    assert found[-1] == "… and 50 more"


def test_each_value_knows_its_line(here: Path) -> None:
    Path("gateway.yaml").write_text("a:\n  - b: 1\n    c:\n      2\n  - 3\n")
    source = read("gateway.yaml", {})
    places = {("a", 0, "b"): 2, ("a", 0, "c"): 3, ("a", 1): 5, ("a", 0, "not", "there"): 2, ("nor", "this"): 1}
    assert {steps: source.place(steps).line for steps in places} == places


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    content=st.one_of(
        st.binary(max_size=200), st.text(alphabet="a:-[]{}&*!<>|\"'#%?,\n \t${}~0", max_size=60).map(str.encode)
    )
)
def test_garbage_is_read_or_refused_in_words(here: Path, content: bytes) -> None:
    Path("gateway.yaml").write_bytes(content)
    try:
        source = read("gateway.yaml", ENVIRONMENT)
    except ConfigError as error:
        lines = error.errors
    else:
        lines = error_lines(source.faults)
    assert all(line.startswith("gateway.yaml") and line.isprintable() for line in lines)
