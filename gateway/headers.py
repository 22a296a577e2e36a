"""Headers: the fields of a message, in order, matched without case, kept as the bytes they came in.

A proxy passes most fields on untouched. So a field is not taken apart into name and value until somebody asks for it;
what goes on is the line that came. Lines are valid by construction: those that arrived passed the grammar's gate,
those that are set here are checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeAlias

Line: TypeAlias = tuple[str, bytes]
"""A field's name in lower case, and its line without the CRLF."""

Block: TypeAlias = tuple[bytes, list[Line], list[tuple[str, str]]]
"""A block of field lines, the lines that go on, and name and value of those that matter to the reader."""
NO_BLOCK: Final[Block] = (b"", [], [])

_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE: Final = re.compile(r"[\t -~\x80-\xff]*")


# Lines that may hold a secret are not remembered.
_SECRET: Final = frozenset({"authorization", "cookie", "proxy-authorization", "set-cookie"})


class LineReader:
    """Takes blocks of valid field lines apart; of `notable` fields it tells the values, and those of `own` it keeps.

    What peers send, they send again and again: the last block of each peer is compared first, and lines of up to 128
    bytes are remembered taken apart; when there are 4,096 of them all are forgotten.
    """

    def __init__(self, notable: frozenset[str], own: frozenset[str]) -> None:
        self._read = _Lines(notable).__getitem__
        self._own = own

    def split(self, block: bytes) -> Block:
        """The lines of a block (each ends in CRLF) less the reader's own; name and value of the notable ones."""
        lines: list[Line] = []
        noted: list[tuple[str, str]] = []
        if block:
            for line, note in map(self._read, block[:-2].split(b"\r\n")):
                if note is not None:
                    noted.append(note)
                    if note[0] in self._own:
                        continue
                lines.append(line)
        return block, lines, noted


class _Lines(dict[bytes, tuple[Line, tuple[str, str] | None]]):
    def __init__(self, notable: frozenset[str]) -> None:
        self._notable = notable

    def __missing__(self, line: bytes) -> tuple[Line, tuple[str, str] | None]:
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

    __slots__ = ("lines",)

    def __init__(self, fields: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        self.lines: list[Line] = []
        for name, value in fields.items() if isinstance(fields, Mapping) else fields:
            self.add(name, value)

    @classmethod
    def of_lines(cls, lines: list[Line]) -> Headers:
        """Headers made of lines that are known to be valid."""
        headers = cls.__new__(cls)
        headers.lines = lines.copy()  # the reader may hand them out again
        return headers

    def __contains__(self, name: str) -> bool:
        name = name.lower()
        for line in self.lines:  # noqa: SIM110 - half the time of any() over a generator
            if line[0] == name:
                return True
        return False

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __setitem__(self, name: str, value: str) -> None:
        """Set the only field of this name; it takes the place of the first there was."""
        line = _line(name, value)
        for place, (present, _) in enumerate(self.lines):
            if present == line[0]:
                self.lines[place] = line
                self.lines[place + 1 :] = [other for other in self.lines[place + 1 :] if other[0] != line[0]]
                return
        self.lines.append(line)

    def __delitem__(self, name: str) -> None:
        """Take out all fields of this name; that there are none is no error."""
        name = name.lower()
        self.lines = [line for line in self.lines if line[0] != name]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.lines)

    def __len__(self) -> int:
        return len(self.lines)

    def __repr__(self) -> str:
        return f"Headers({list(self.items())!r})"

    def get(self, name: str, default: str | None = None) -> str | None:
        """The value of the first field of this name."""
        name = name.lower()
        for present, line in self.lines:
            if present == name:
                return _value(present, line)
        return default

    def getall(self, name: str) -> list[str]:
        """The values of all fields of this name, in order."""
        name = name.lower()
        return [_value(present, line) for present, line in self.lines if present == name]

    def take(self, name: str) -> list[str]:
        """Take out all fields of this name; their values, in order."""
        name = name.lower()
        if name not in self:
            return []
        values = self.getall(name)
        del self[name]
        return values

    def add(self, name: str, value: str) -> None:
        """One more field, whether or not there are others of its name."""
        self.lines.append(_line(name, value))

    def update(self, fields: Mapping[str, str]) -> None:
        """Set each of these."""
        for name, value in fields.items():
            self[name] = value

    def items(self) -> Iterator[tuple[str, str]]:
        """Names as they are spelled, with their values, in order."""
        return ((line[: len(name)].decode("ascii"), _value(name, line)) for name, line in self.lines)

    def copy(self) -> Headers:
        """The same fields, changed independently."""
        return Headers.of_lines(self.lines.copy())

    def without(self, names: frozenset[str]) -> list[bytes]:
        """The lines that go into a message, less those of these names."""
        kept: list[bytes] = []
        for name, line in self.lines:
            if name not in names:
                kept.append(line)
        return kept


def valid_field(name: str, value: str) -> bool:
    """Whether a field can stand in a message (RFC 9110 §5.1, §5.5)."""
    return _NAME.fullmatch(name) is not None and _VALUE.fullmatch(value) is not None


def _line(name: str, value: str) -> Line:
    if not valid_field(name, value):
        raise ValueError(f"not a header field: {name!r}")
    return name.lower(), f"{name}: {value}".encode("latin-1")
