"""Options: the base of every block of the configuration file, and the units its values are written in.

An option class stands beside the code it configures; `config.py` composes them. A field's docstring is its
documentation: the generated `config/reference.md` prints it.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema

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


class Options(BaseModel):
    """A block of options: an unknown key is an error, values never change after load."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def parse_duration(value: Any) -> float:
    """`250ms`, `30s`, `5m`, `1h` or `7d` as seconds. Raises ValueError for anything else, plain numbers included."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"not a duration: {value!r} (write 250ms, 30s, 5m, 1h or 7d)")
    return float(match[1]) * _DURATION_UNITS[match[2]]


def parse_size(value: Any) -> int:
    """`512B`, `64KiB` or `10MB` as bytes. Raises ValueError for anything else, plain numbers included."""
    match = re.fullmatch(r"(\d+)(B|KB|MB|GB|KiB|MiB|GiB)", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"not a size: {value!r} (write 512B, 64KiB or 10MB)")
    return int(match[1]) * _SIZE_UNITS[match[2]]


def _duration(value: Any) -> float:
    return value if isinstance(value, float) else parse_duration(value)


def _size(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else parse_size(value)


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
