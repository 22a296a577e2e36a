"""The shape of the tree: small files, short functions, a reason for each, the words of the house, nothing left over."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.tree import ROOT, files, product, python, text, tree

MOST_LINES = 400
READABLE_LINES = 300
LONGER_FOR_A_REASON: dict[str, str] = {}
"""Files of more than READABLE_LINES lines, each with the reason why a second file would not read better."""

MOST_FUNCTION_LINES = 40
BANNED_WORDS = {"manager", "helper", "helpers", "util", "utils", "common", "base", "data", "info"}
LEFT_OVER = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
MACHINE_PATH = re.compile(r"(?<![\w.~$}-])/(work|root|home|tmp|Users)/[\w.-]+")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(tree(path)):
        if isinstance(node, Function):
            yield node


def code_lines(function: Function) -> int:
    """Lines of a function without its decorators and its docstring: documentation is not length."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return function.end_lineno - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("path", product(), ids=str)
def test_a_module_says_what_it_is(path):
    docstring = ast.get_docstring(tree(path))
    assert docstring or not text(path).strip(), "a module starts with what it is and why it exists"


def test_no_file_is_long():
    lengths = {str(path): len(text(path).splitlines()) for path in product() + python("tests", "bin")}
    assert {path: lines for path, lines in lengths.items() if lines > MOST_LINES} == {}
    long = {path for path, lines in lengths.items() if lines > READABLE_LINES and not path.startswith("tests/")}
    assert long == set(LONGER_FOR_A_REASON)


def test_no_function_is_long():
    lengths = {f"{path}:{each.name}": code_lines(each) for path in product() for each in functions(path)}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_FUNCTION_LINES} == {}


def test_nothing_is_left_for_later():
    found = [
        f"{path}:{number}"
        for path in files()
        if path != Path("tests/house/test_layout.py")
        for number, line in enumerate(text(path).splitlines(), 1)
        if LEFT_OVER.search(line)
    ]
    assert found == []


def test_names_say_something():
    def names(path: Path) -> Iterator[str]:
        yield path.stem
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef | Function):
                yield node.name

    def words(name: str) -> set[str]:
        return set(re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower().split("_"))

    # asyncio names these; whoever speaks its protocol has no choice.
    given = {"data_received", "datagram_received", "get_extra_info"}
    found = [
        f"{path}: {name}"
        for path in product()
        for name in names(path)
        if name not in given and words(name) & BANNED_WORDS
    ]
    assert found == []


def test_no_path_of_a_machine_is_committed():
    found = [
        f"{path}:{number}: {match[0]}"
        for path in files()
        for number, line in enumerate(text(path).splitlines(), 1)
        if (match := MACHINE_PATH.search(line))
    ]
    assert found == []


@pytest.mark.parametrize("path", python("plugins"), ids=str)
def test_a_plugin_imports_what_a_plugin_may(path):
    """The contract and its words, or its own folder; never another plugin, never the machinery."""
    allowed = {
        "plugin",
        "services",
        "exchange",
        "problem",
        "headers",
        "body",
        "options",
        "authentication",
        "consumers",
        "credentials",
        "directory",
        "projection",
        "keys",
        "log",
        "fetch",
        "cookie",
    }
    allowed |= {"clock", "metrics", "background", "stores", "metering", "route", "spans"}
    allowed |= {
        "coding",
        "conditions",
        "facts",
        "header_options",
        "json_path",
        "list_options",
        "networks",
        "path",
        "permissions",
        "reply",
        "template",
    }
    allowed |= {"cache", "claims", "expiring", "inquiry", "parameters", "passwords", "single_flight", "tls"}
    options_of_others = {"gateway.upstream.breaker"}
    imported = {
        name
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
        if name
    }
    own = path.parts[1].removesuffix(".py")
    for name in imported:
        top, _, rest = name.partition(".")
        if top == "gateway" and name not in options_of_others:
            assert rest.split(".")[0] in allowed, f"{path} imports {name}"
        if top == "plugins":
            assert rest.split(".")[0] == own, f"{path} imports {name}"


def test_every_source_file_is_where_the_packages_are():
    stray = [
        path
        for path in files()
        if path.suffix == ".py" and path.parts[0] not in ("gateway", "plugins", "demo", "benchmarks", "tests", "bin")
    ]
    assert stray == []
    assert (ROOT / "gateway" / "py.typed").exists()
