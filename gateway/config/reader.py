"""Reading the configuration file: YAML with its includes and substitutions, turned into a Source.

YAML 1.2 is read rather than 1.1, so that `on`, `off`, `yes` and `12:30` stay text. On top of it come `${NAME}`,
`${NAME:-default}` and `${file:path}` inside a value, `$${` for a literal `${`, and `!include path` in place of a value.
`${method}` alone is no variable of the environment: it is `{method}`, the request's, as templates write it.
What is wrong is collected rather than raised, so that one run names everything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from gateway.config.source import ConfigError, Fault, Place, Source, Steps, error_lines, stamp

MAX_FILE_BYTES: Final = 1024 * 1024
MAX_SECRET_BYTES: Final = 64 * 1024
MAX_VALUES: Final = 50_000
MAX_INCLUDES: Final = 100

_TAG: Final = "tag:yaml.org,2002:"
_SUBSTITUTION: Final = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
_REQUESTS: Final = "method"
"""The one name between `${` and `}` that the request fills in, not the environment."""
_VARIABLE: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)
_PLAIN_WORDS: Final = (
    (r"'\\t' that cannot start any token", "a tab is used for indentation (use spaces)"),
    (r"mapping values are not allowed here", 'a second ":" on this line (put text that contains ": " in quotes)'),
    (r"end of stream while scanning a quoted", "this quote is never closed"),
    (r"stream end>' while parsing a flow", "this bracket or brace is never closed"),
    (r"expected <block end>", "the indentation does not fit the lines above"),
    (r"could not find expected ':'", 'a ":" is missing after a key'),
    (r"expected a single document", "only one document is read; remove what follows `---`"),
    (r"but got '\{'", "a second `{` (between braces, put `${…}` in quotes)"),
    (r"undefined alias '(.*)'", r'no anchor is named "\1"'),
)


def read(path: Path | str, environment: Mapping[str, str]) -> Source:
    """Read a configuration file and everything it includes. Raises ConfigError when the file itself cannot be read."""
    reader = _Reader(str(path), environment)
    reader.read()
    if reader.source.value is None and reader.source.faults:
        raise ConfigError(error_lines(reader.source.faults), reader.source.files)
    return reader.source


class _Unreadable(Exception):
    """A file cannot be read; the text says why."""


class _Loader(yaml.SafeLoader):
    """PyYAML's parser with the types of YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, Any] = {}


for _name, _pattern, _first in (
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)\Z", "tTfF"),
    ("null", r"(?:~|null|Null|NULL|)\Z", ["~", "n", "N", ""]),
    ("int", r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z", "-+.0123456789"),
    ("merge", r"<<\Z", "<"),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(_pattern), list(_first))


class _Reader:
    """Walks the nodes of the file and of what it includes; keeps the place of every key and value."""

    def __init__(self, file: str, environment: Mapping[str, str]) -> None:
        self.source = Source(file)
        self._environment = environment
        self._open: list[str] = [file]  # the file being read and those that include it
        self._orders: dict[str, int] = {file: 0}
        self._around: set[int] = set()  # nodes that the one at hand lies in
        self._count = 0
        self._includes = 0

    def read(self) -> None:
        file = self._open[0]
        try:
            self.source.value = self._document(file, ())
        except _Unreadable as error:
            raise ConfigError([f"{file}: {error}"], self.source.files) from None

    def _document(self, file: str, steps: Steps) -> Any:
        text = self._text(file, MAX_FILE_BYTES)
        if not text.strip():
            raise _Unreadable("the file is empty")
        try:
            loader = _Loader(text)
            node = loader.get_single_node()
        except yaml.YAMLError as error:
            line, column, words = _explained(error, text)
            self.source.unreadable(steps, words, Place(self._orders[file], line, column, file))
            return None
        except (ValueError, OverflowError):  # PyYAML lets these out for an escape such as "\\UFFFFFFFF"
            raise _Unreadable("not valid YAML: an escape in a quoted text names no character") from None
        except RecursionError:
            raise _Unreadable("lists and blocks are nested too deeply") from None
        if node is None:
            raise _Unreadable("the file holds no values, only comments")
        return self._value(node, steps)

    def _place(self, node: yaml.Node) -> Place:
        mark = node.start_mark
        return Place(self._orders[self._open[-1]], mark.line + 1, mark.column + 1, self._open[-1])

    def _value(self, node: yaml.Node, steps: Steps) -> Any:
        place = self._place(node)
        self.source.values.setdefault(steps, place)
        self._count += 1
        if self._count > MAX_VALUES:
            many = f"{place.file}:{place.line}: more than {MAX_VALUES} values, aliases counted out"
            raise ConfigError([many], self.source.files)
        if node.tag == "!include":
            return self._include(node, steps, place)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, steps, place)
        if id(node) in self._around:
            return self.source.unreadable(steps, "an alias stands inside what it names", place)
        if node.tag not in (_TAG + "map", _TAG + "seq"):
            return self.source.unreadable(steps, f'unknown tag "{node.tag}"', place)
        self._around.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._block(node, steps)
            return [self._value(item, (*steps, index)) for index, item in enumerate(node.value)]
        finally:
            self._around.discard(id(node))

    def _block(self, node: yaml.MappingNode, steps: Steps) -> dict[str, Any]:
        block: dict[str, Any] = {}
        own: dict[str, Place] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            place = self._place(key_node)
            if key_node.tag == _TAG + "merge":
                merged += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
            elif not isinstance(key_node, yaml.ScalarNode) or not key_node.value:
                self.source.unreadable(steps, "a key must be text", place)
            elif key_node.value in own:
                first = own[key_node.value]
                text = f'duplicate key "{key_node.value}" (first in {first.file}:{first.line})'
                self.source.faults.append(Fault(place, steps, text))
            else:
                own[key_node.value] = place
                self.source.keys[*steps, key_node.value] = place
                block[key_node.value] = self._value(value_node, (*steps, key_node.value))
        for other in merged:
            self._merge(other, block, steps)
        return block

    def _merge(self, node: yaml.Node, block: dict[str, Any], steps: Steps) -> None:
        """`<<: *other`: take what the block does not say itself."""
        if not isinstance(node, yaml.MappingNode):
            self.source.unreadable(steps, "`<<` takes a block, or a list of blocks", self._place(node))
            return
        if id(node) in self._around:
            self.source.unreadable(steps, "an alias stands inside what it names", self._place(node))
            return
        self._around.add(id(node))
        taken = [pair for pair in node.value if isinstance(pair[0].value, list) or pair[0].value not in block]
        part = yaml.MappingNode(node.tag, taken, node.start_mark, node.end_mark)
        block.update(self._block(part, steps))
        self._around.discard(id(node))

    def _scalar(self, node: yaml.ScalarNode, steps: Steps, place: Place) -> Any:
        text = node.value
        match node.tag.removeprefix(_TAG):
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int" | "float" as kind:
                try:
                    return _whole(text) if kind == "int" else float(text)
                except ValueError:
                    return self.source.unreadable(steps, "not a number that can be read", place)
            case "str" | "merge":
                return self._substituted(text, steps, place) if "${" in text else text
        return self.source.unreadable(steps, f'unknown tag "{node.tag}"', place)

    def _substituted(self, text: str, steps: Steps, place: Place) -> str:
        def replacement(match: re.Match[str]) -> str:
            if match[1] == _REQUESTS:
                return f"{{{_REQUESTS}}}"
            self.source.written[steps] = text
            if match[0] == "$${":
                return "${"
            try:
                return self._looked_up(match[1])
            except _Unreadable as error:
                self.source.unreadable(steps, str(error), place)
                return ""

        return _SUBSTITUTION.sub(replacement, text)

    def _looked_up(self, inner: str | None) -> str:
        if inner is None:
            raise _Unreadable("a `${` without its `}`, or one inside another (write `$${` for a literal `${`)")
        if inner.startswith("file:"):
            try:
                return self._text(self._beside(inner[5:]), MAX_SECRET_BYTES).removesuffix("\n")
            except _Unreadable as error:
                raise _Unreadable(f"${{{inner}}}: {error}") from None
        match = _VARIABLE.fullmatch(inner)
        if match is None:
            raise _Unreadable(
                f"${{{inner}}}: not the name of an environment variable (write `$${{` for a literal `${{`)"
            )
        value = self._environment.get(match[1])
        if match[2] is not None:
            return value or match[2]
        if value is None:
            raise _Unreadable(f"${{{inner}}}: this environment variable is not set")
        return value

    def _include(self, node: yaml.Node, steps: Steps, place: Place) -> Any:
        if not isinstance(node, yaml.ScalarNode) or not node.value:
            return self.source.unreadable(steps, "`!include` takes the path of one file", place)
        file = self._beside(node.value)
        self._includes += 1
        if self._includes > MAX_INCLUDES:
            many = f"{place.file}:{place.line}: more than {MAX_INCLUDES} files are included"
            raise ConfigError([many], self.source.files)
        if file in self._open:
            circle = " → ".join([*self._open, file])
            return self.source.unreadable(steps, f"`!include {node.value}` goes in a circle: {circle}", place)
        self._orders.setdefault(file, len(self._orders))
        self._open.append(file)
        try:
            return self._document(file, steps)
        except _Unreadable as error:
            return self.source.unreadable(steps, f"`!include {node.value}`: {error}", place)
        finally:
            self._open.pop()

    def _text(self, file: str, limit: int) -> str:
        self.source.files[file] = stamp(file)
        return _text(file, limit)

    def _beside(self, name: str) -> str:
        """A path given in the file at hand, as seen from where the command runs."""
        return os.path.normpath(os.path.join(os.path.dirname(self._open[-1]), name))


def _whole(text: str) -> int:
    bases = {"0x": 16, "0o": 8}
    return int(text, bases.get(text[:2], 10))


def _text(file: str, limit: int) -> str:
    """The text of a UTF-8 file of at most `limit` bytes. Raises _Unreadable."""
    try:
        with open(file, "rb") as stream:
            content = stream.read(limit + 1)
    except (OSError, ValueError) as error:
        raise _Unreadable(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > limit:
        raise _Unreadable(f"is larger than {limit // 1024}KiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _Unreadable(f"is not UTF-8 (line {line})") from None


def _explained(error: yaml.YAMLError, text: str) -> tuple[int, int, str]:
    """Line, column and plain words for what the parser did not understand."""
    if isinstance(error, yaml.MarkedYAMLError):
        problem = f"{error.problem or 'not understood'} {error.context or ''}".strip()
        never_closed = "stream" in (error.problem or "")
        mark = (error.context_mark if never_closed else None) or error.problem_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    else:  # a ReaderError knows the character, not the line
        position = int(getattr(error, "position", 0))
        line, column = text.count("\n", 0, position) + 1, 1
        problem = "a control character, which YAML does not allow"
    for words in _plain(problem):
        return line, column, f"not valid YAML: {words}"
    return line, column, f"not valid YAML: {problem}"


def _plain(problem: str) -> Iterator[str]:
    for pattern, words in _PLAIN_WORDS:
        if match := re.search(pattern, problem):
            yield match.expand(words)
