"""The configuration as it was read: plain values, and for each of them the line it stands on.

A value from the environment or a file may be a secret: `written` remembers what stood in its place, and only that may
appear in a message.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

MAX_ERRORS: Final = 100
MAX_ERROR_LENGTH: Final = 500

Steps: TypeAlias = tuple[str | int, ...]
"""The way from the root to a value: keys of blocks and places in lists."""
Stamp: TypeAlias = tuple[int, int, int]
"""By what a file is known to have changed: its time of modification, its size, its inode."""


class ConfigError(Exception):
    """The configuration cannot be used. `errors` holds one line for each thing that is wrong, in the file's order;
    `files` are those that were looked into, as far as it came to that.
    """

    def __init__(self, errors: list[str], files: Mapping[str, Stamp | None] = MappingProxyType({})) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors
        self.files = files


class Place(NamedTuple):
    """A position; sorts in reading order. `order` counts files as they were opened, `line` and `column` from 1."""

    order: int
    line: int
    column: int
    file: str


class Fault(NamedTuple):
    """One thing that is wrong: where it stands, which value it is about, and what to say."""

    place: Place
    steps: Steps
    text: str


class Source:
    """A configuration file with all it includes.

    `value` is the root as plain Python values; `faults` is what was wrong so far; `broken` are the values that could
    not be read, about which nothing more can be said; `written` holds the text that a substitution took the place of;
    `files` are all that were looked into, with the stamps they had.
    """

    def __init__(self, file: str) -> None:
        self.value: Any = None
        self.faults: list[Fault] = []
        self.broken: set[Steps] = set()
        self.written: dict[Steps, str] = {}
        self.files: dict[str, Stamp | None] = {}
        self.values: dict[Steps, Place] = {(): Place(0, 1, 1, file)}
        self.keys: dict[Steps, Place] = {}

    def fault(self, steps: Steps, text: str, key: str | None = None) -> None:
        """Remember that something is wrong with a value (or with one key of it), unless it could not be read anyway."""
        if not any(steps[:length] in self.broken for length in range(len(steps) + 1)):
            place = self.place(steps if key is None else (*steps, key))
            self.faults.append(Fault(place, steps, text))

    def unreadable(self, steps: Steps, text: str, place: Place | None = None) -> None:
        """Remember that a value could not be read, so that nothing more is said about it."""
        self.faults.append(Fault(place or self.place(steps), steps, text))
        self.broken.add(steps)

    def place(self, steps: Steps) -> Place:
        """Where a value stands: its key if it has one, else the value itself, else whatever holds it."""
        while steps not in self.keys and steps not in self.values:
            steps = steps[:-1]
        return self.keys.get(steps) or self.values[steps]

    def located(self, steps: Steps, text: str) -> str:
        """A text about a value, behind its file and line."""
        place = self.place(steps)
        return f"{place.file}:{place.line}: {text}"

    def at(self, steps: Steps) -> Any:
        """The value at the end of `steps`, or None where the way does not go on."""
        return descend(self.value, steps)

    def as_written(self) -> Any:
        """All values again, with the text of the file in place of what came from the environment or another file."""
        return self._as_written(self.value, ())

    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that differ where what is written differs. They tell nothing of what a
        substitution stands for, which may be a secret.
        """
        written = json.dumps(self.as_written(), sort_keys=True)
        return hashlib.sha256(written.encode("ascii")).hexdigest()[:12]

    def shown(self, steps: Steps) -> str:
        """A scalar as it may appear in a message."""
        return self.written.get(steps, str(self.at(steps)))

    def _as_written(self, value: Any, steps: Steps) -> Any:
        if isinstance(value, dict):
            return {key: self._as_written(item, (*steps, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self._as_written(item, (*steps, index)) for index, item in enumerate(value)]
        return self.written.get(steps, value)


def descend(value: Any, steps: Steps) -> Any:
    """The value that `steps` lead to from `value`, or None where the way does not go on."""
    for step in steps:
        if not has(value, step):
            return None
        value = value[step]
    return value


def has(value: Any, step: str | int) -> bool:
    """Whether a block has this key, or a list this place."""
    if isinstance(value, dict):
        return step in value
    return isinstance(value, list) and isinstance(step, int) and step < len(value)


def stamp(file: str) -> Stamp | None:
    """The stamp of a file, None where there is none."""
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def error_lines(faults: list[Fault]) -> list[str]:
    """`gateway.yaml:41: routes[2].plugins.cors: …`, one line for each fault, in reading order, at most 100."""
    lines = [_line(fault) for fault in sorted(set(faults))]
    more = len(lines) - MAX_ERRORS
    return [*lines[:MAX_ERRORS], f"… and {more} more"] if more > 0 else lines


def _line(fault: Fault) -> str:
    where = route_to(fault.steps)
    line = f"{fault.place.file}:{fault.place.line}: {where + ': ' if where else ''}{fault.text}"
    line = "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)
    return line if len(line) <= MAX_ERROR_LENGTH else line[:MAX_ERROR_LENGTH] + "…"


def route_to(steps: Steps) -> str:
    """`routes[2].plugins.cors.max_age`: a plugin is named by its name, not by its place in the list as well."""
    text = ""
    for index, step in enumerate(steps):
        if isinstance(step, str):
            text += f".{step}" if text else step
        elif index + 1 == len(steps) or steps[index - 1] != "plugins":
            text += f"[{step}]"
    return text
