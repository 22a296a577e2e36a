"""Options: the base of every block of the configuration file, and the units its values are written in.

An option class stands beside the code it configures; `config.py` composes them. A field's docstring is its
documentation: the generated `config/reference.md` prints it.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo, WithJsonSchema, field_validator

_DURATION_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS: Final = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}

FROM_FILE: Final = "file"
"""Validation context of values that a person wrote: a number there needs its unit, one in code is seconds or bytes."""


class Options(BaseModel):
    """A block of options: an unknown key is an error, values never change after load."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, field: ValidationInfo) -> Any:
        """Python counts `true` as 1; a reader of the file does not."""
        if isinstance(value, bool) and cls.model_fields[field.field_name or ""].annotation in (int, float):
            raise ValueError("must be a number, not `true` or `false`")
        return value


def parse_duration(value: Any) -> float:
    """`250ms`, `30s`, `5m`, `1h` or `7d` as seconds. Raises ValueError for anything else, plain numbers included."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h|d)", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"not a duration: {value!r} (write 250ms, 30s, 5m, 1h or 7d)")
    return float(match[1]) * _DURATION_UNITS[match[2]]


def parse_size(value: Any) -> int:
    """`512B`, `64KiB` or `10MB` as bytes. Raises ValueError for anything else, plain numbers included."""
    match = re.fullmatch(r"(\d{1,15})(B|KB|MB|GB|KiB|MiB|GiB)", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"not a size: {value!r} (write 512B, 64KiB or 10MB)")
    return int(match[1]) * _SIZE_UNITS[match[2]]


def write_duration(seconds: float) -> str:
    """Seconds as they are written in the configuration, in the largest unit that needs no fraction."""
    for unit, length in reversed(_DURATION_UNITS.items()):
        if seconds >= length and (count := round(seconds / length, 6)) == int(count):
            return f"{int(count)}{unit}"
    return f"{round(seconds / 0.001, 6):g}ms"


def write_size(size: int) -> str:
    """Bytes as they are written in the configuration, in the largest unit that needs no fraction."""
    exact = [(length, unit) for unit, length in _SIZE_UNITS.items() if size and size % length == 0]
    length, unit = max(exact, default=(1, "B"))
    return f"{size // length}{unit}"


def _duration(value: Any, field: ValidationInfo) -> float:
    return value if isinstance(value, float) and field.context is not FROM_FILE else parse_duration(value)


def _size(value: Any, field: ValidationInfo) -> int:
    bare = isinstance(value, int) and not isinstance(value, bool)
    return value if bare and field.context is not FROM_FILE else parse_size(value)


Duration = Annotated[
    float,
    BeforeValidator(_duration),
    WithJsonSchema({"type": "string", "pattern": r"^\d+(\.\d+)?(ms|s|m|h|d)$", "examples": ["250ms", "30s", "5m"]}),
]
"""Seconds, written `250ms`, `30s`, `5m`, `1h`, `7d`. A default in code is a float of seconds."""

Size = Annotated[
    int,
    BeforeValidator(_size),
    WithJsonSchema({"type": "string", "pattern": r"^\d+(B|KB|MB|GB|KiB|MiB|GiB)$", "examples": ["64KiB", "10MB"]}),
]
"""Bytes, written `512B`, `64KiB`, `10MB`. A default in code is an int of bytes."""
