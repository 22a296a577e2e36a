"""Headers: the fields of a message, in order, matched without case, kept as the bytes they came in.

A proxy passes most fields on untouched. So a field is not taken apart into name and value until somebody asks for it;
what goes on is the line that came. And what peers send, they send again: the fields of one message (`Fields`) are
shared with the next that has the same, and so is what was made of them, until somebody changes a message's own.
Lines are valid by construction: those that arrived passed the grammar's gate, those that are set here are checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Final, TypeAlias, TypeVar

Line: TypeAlias = tuple[str, bytes]
"""A field's name in lower case, and its line without the CRLF."""
Field: TypeAlias = tuple[str, str]
"""A field's name in lower case, and its value."""

TCHAR: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
"""A character of a token (RFC 9110 §5.6.2), such as the name of a field."""
FIELD_NAME: Final = re.compile(f"{TCHAR}+")
_VALUE: Final = re.compile(r"[\t -~\x80-\xff]*")
# Lines that may hold a secret are not remembered beyond the message they came in.
_SECRET: Final = frozenset({"authorization", "cookie", "proxy-authorization", "set-cookie"})
_NAMES: Final = object()
_MOST_MADE: Final = 32
"""Things that are remembered of the same fields."""
_PICKED: Final = object()

T = TypeVar("T")


def twins(name: str) -> Iterator[str]:
    """A name's spellings with underscores: a server that maps both to one variable takes the twin for the real one."""
    for separators in product("-_", repeat=name.count("-")):
        if "_" in separators:
            parts = name.split("-")
            yield "".join(part + separator for part, separator in zip(parts, (*separators, ""), strict=True))


class Fields:
    """Field lines that several messages share; `made` remembers what was made of them. Neither outlives a change."""

    __slots__ = ("lines", "made")

    def __init__(self, lines: list[Line]) -> None:
        self.lines = lines
        self.made: dict[object, Any] = {}


class LineReader:
    """Takes blocks of valid field lines apart; of `notable` fields it tells the values, and those of `own` it keeps.

    Lines of up to 128 bytes are remembered taken apart; when there are 4,096 of them all are forgotten.
    """

    def __init__(self, notable: frozenset[str], own: frozenset[str]) -> None:
        self._read = _Lines(notable).__getitem__
        self._own = own

    def split(self, block: bytes) -> tuple[list[Line], list[Field]]:
        """The lines of a block (each ends in CRLF) less the reader's own; name and value of the notable ones."""
        lines: list[Line] = []
        noted: list[Field] = []
        if block:
            for line, note in map(self._read, block[:-2].split(b"\r\n")):
                if note is not None:
                    noted.append(note)
                    if note[0] in self._own:
                        continue
                lines.append(line)
        return lines, noted


class _Lines(dict[bytes, tuple[Line, Field | None]]):
    def __init__(self, notable: frozenset[str]) -> None:
        self._notable = notable

    def __missing__(self, line: bytes) -> tuple[Line, Field | None]:
        name = line[: line.index(b":")].lower().decode("ascii")
        entry = (name, line), (name, _value(name, line)) if name in self._notable else None
        if len(line) <= 128 and name not in _SECRET:
            if len(self) >= 4096:
                self.clear()
            self[line] = entry
        return entry


def _value(name: str, line: bytes) -> str:
    return line[len(name) + 1 :].strip(b" \t").decode("latin-1")


class Headers:
    """Fields by name, any number under each; names are matched without case. Values are latin-1 text.

    Setting or adding a field raises ValueError if its name or value could not stand in a message.
    """

    __slots__ = ("_fields", "_shared")

    def __init__(self, fields: Fields | Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        if type(fields) is Fields:
            self._fields = fields
            self._shared = True
            return
        self._fields = Fields([])
        self._shared = False
        pairs = fields.items() if isinstance(fields, Mapping) else fields
        for name, value in pairs:  # type: ignore[union-attr] # mypy does not see that Fields has left
            self.add(name, value)

    def __contains__(self, name: str) -> bool:
        fields = self._fields
        names = fields.made.get(_NAMES)
        if names is None:
            names = fields.made[_NAMES] = frozenset(map(_name_of, fields.lines))
        return name.lower() in names

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __setitem__(self, name: str, value: str) -> None:
        """Set the only field of this name; it takes the place of the first there was."""
        line = _line(name, value)
        lines = self._change()
        for place, (present, _) in enumerate(lines):
            if present == line[0]:
                lines[place] = line
                lines[place + 1 :] = [other for other in lines[place + 1 :] if other[0] != line[0]]
                return
        lines.append(line)

    def __delitem__(self, name: str) -> None:
        """Take out all fields of this name; that there are none is no error."""
        self.take(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._fields.lines)

    def __len__(self) -> int:
        return len(self._fields.lines)

    def __repr__(self) -> str:
        return f"Headers({list(self.items())!r})"

    def get(self, name: str, default: str | None = None) -> str | None:
        """The value of the first field of this name."""
        name = name.lower()
        for present, line in self._fields.lines:
            if present == name:
                return _value(present, line)
        return default

    def getall(self, name: str) -> list[str]:
        """The values of all fields of this name, in order."""
        name = name.lower()
        return [_value(present, line) for present, line in self._fields.lines if present == name]

    def pick(self, names: frozenset[str]) -> Sequence[Field]:
        """All fields that have one of these names (in lower case), in order. That there are none is remembered."""
        fields, key = self._fields, (_PICKED, names)
        if key in fields.made:
            return ()
        found = [(name, _value(name, line)) for name, line in fields.lines if name in names]
        if not found:
            fields.made[key] = None
        return found

    def take(self, name: str) -> list[str]:
        """Take out all fields of this name; their values, in order."""
        name = name.lower()
        lines = self._fields.lines
        taken = [_value(name, line) for present, line in lines if present == name]
        if taken:
            self._fields = Fields([line for line in lines if line[0] != name])
            self._shared = False
        return taken

    def once(self, reading: Callable[[Headers], T]) -> T:
        """What `reading` finds in these fields, which it may also change; not called again for fields that repeat.

        It must depend on nothing else, and be the same object every time.
        """
        fields = self._fields
        read: tuple[T, Fields] | None = fields.made.get(reading)
        if read is None:
            if len(fields.made) >= _MOST_MADE:
                fields.made.clear()  # what was made by readers that a reload has replaced
            self._shared = True  # a change must not touch the fields that this is remembered for
            read = fields.made[reading] = reading(self), self._fields
        found, self._fields = read
        self._shared = True
        return found

    def add(self, name: str, value: str) -> None:
        """One more field, whether or not there are others of its name."""
        line = _line(name, value)
        self._change().append(line)

    def add_line(self, name: str, line: bytes) -> None:
        """One more field: its name in lower case, and its line without the CRLF. Nothing is checked here."""
        self._change().append((name, line))

    def set_line(self, name: str, line: bytes) -> None:
        """Such a field in place of all that have its name."""
        lines = [other for other in self._fields.lines if other[0] != name]
        lines.append((name, line))
        self._fields = Fields(lines)
        self._shared = False

    def update(self, fields: Mapping[str, str]) -> None:
        """Set each of these."""
        for name, value in fields.items():
            self[name] = value

    def items(self) -> Iterator[tuple[str, str]]:
        """Names as they are spelled, with their values, in order."""
        return ((line[: len(name)].decode("ascii"), _value(name, line)) for name, line in self._fields.lines)

    def copy(self) -> Headers:
        """The same fields, changed independently."""
        self._shared = True
        return Headers(self._fields)

    def wire(self, without: frozenset[str]) -> bytes:
        """The lines as they stand in a message, each with its CRLF, less the fields of these names."""
        fields = self._fields
        wire: bytes | None = fields.made.get(without)
        if wire is None:
            lines = [line for name, line in fields.lines if name not in without]
            wire = fields.made[without] = b"\r\n".join([*lines, b""]) if lines else b""
        return wire

    def _change(self) -> list[Line]:
        """The lines, ours alone from now on, and what was made of them forgotten."""
        if self._shared:
            self._fields = Fields(self._fields.lines.copy())
            self._shared = False
        else:
            self._fields.made.clear()
        return self._fields.lines


def vary(headers: Headers, on: str) -> None:
    """Say that a response depends on this field of the request (RFC 9110 §12.5.5), unless it says so already."""
    said = ",".join(headers.getall("vary"))
    members = {member.strip().lower() for member in said.split(",")}
    if not members & {"*", on.lower()}:
        headers["Vary"] = f"{said}, {on}" if said else on


def _name_of(line: Line) -> str:
    return line[0]


def valid_field(name: str, value: str) -> bool:
    """Whether a field can stand in a message (RFC 9110 §5.1, §5.5)."""
    return FIELD_NAME.fullmatch(name) is not None and _VALUE.fullmatch(value) is not None


def _line(name: str, value: str) -> Line:
    if not valid_field(name, value):
        raise ValueError(f"not a header field: {name!r}")
    return name.lower(), f"{name}: {value}".encode("latin-1")
