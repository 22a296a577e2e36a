"""Options: the base of every block of the configuration file, and the units its values are written in.

An option class stands beside the code it configures; `config.py` composes them. A field's docstring is its
documentation: the generated `config/reference.md` prints it.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeGuard, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic.fields import FieldInfo

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

_STATUS_RANGE: Final = re.compile(r"([1-5]\d\d)(?:-([1-5]\d\d))?")

FROM_FILE: Final = "file"
"""Validation context of values that a person wrote: a number there needs its unit, one in code is seconds or bytes."""


class Options(BaseModel):
    """A block of options: an unknown key is an error, values never change after load."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, field: ValidationInfo) -> Any:
        """Python counts `true` as 1; a reader of the file does not."""
        if isinstance(value, bool):
            option = cls.model_fields[field.field_name or ""]
            kinds = set(alternatives(option.annotation))
            if kinds & {int, float} and bool not in kinds and unit_of(option.metadata) is None:
                raise ValueError("must be a number, not `true` or `false`")
        return value


def alternatives(annotation: Any) -> Iterator[Any]:
    """What the annotation of an option allows, without its metadata and with unions taken apart."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from alternatives(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for arm in get_args(annotation):
            yield from alternatives(arm)
    else:
        yield annotation


def is_options(annotation: Any) -> TypeGuard[type[Options]]:
    """Whether an annotation stands for a block of options."""
    return isinstance(annotation, type) and issubclass(annotation, Options)


def fields_by_key(kind: type[Options]) -> dict[str, str]:
    """The key of each option in YAML, and its attribute in Python."""
    return {field.alias or name: name for name, field in kind.model_fields.items()}


Unit = Literal["duration", "size", "rate", "statuses"]
Way: TypeAlias = tuple[str, ...]
"""The keys from a block to an option somewhere inside it."""


def unit_of(metadata: Iterable[Any]) -> Unit | None:
    """The unit of an option, from the metadata of its annotation."""
    return next((unit for item in metadata for unit, mark in _MARKS.items() if item is mark), None)


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


def parse_rate(value: Any) -> float:
    """`50%` as 0.5. Raises ValueError for anything else, plain numbers included."""
    match = re.fullmatch(r"(\d{1,4}(?:\.\d{1,4})?)%", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"not a rate: {value!r} (write 50% or 0.5%)")
    return float(Decimal(match[1]) / 100)  # 33.3% of 1000 are 333, not a hair less


def parse_statuses(value: Any) -> frozenset[int]:
    """`200`, `200-399` or a list of such as the statuses they stand for. Raises ValueError for anything else."""
    if isinstance(value, frozenset):
        return value
    found: set[int] = set()
    for item in value if isinstance(value, list) else [value]:
        match = _STATUS_RANGE.fullmatch(str(item))
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"not a status or range of statuses: {item!r} (write 200 or 200-399)")
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(found)


def write_duration(seconds: float) -> str:
    """Seconds as they are written in the configuration, in the largest unit that needs no fraction."""
    for unit, length in reversed(_DURATION_UNITS.items()):
        if seconds >= length and (count := round(seconds / length, 6)) == int(count):
            return f"{int(count)}{unit}"
    return f"{round(seconds / 0.001, 6):g}ms" if seconds else "0s"


def write_size(size: int) -> str:
    """Bytes as they are written in the configuration, in the largest unit that needs no fraction."""
    exact = [(length, unit) for unit, length in _SIZE_UNITS.items() if size and size % length == 0]
    length, unit = max(exact, default=(1, "B"))
    return f"{size // length}{unit}"


def write_rate(rate: float) -> str:
    """A rate as it is written in the configuration."""
    return f"{round(rate * 100, 4):g}%"


def write_statuses(statuses: frozenset[int]) -> str:
    """Statuses as they are written in the configuration: `200-299, 404`."""
    runs: list[list[int]] = []
    for status in sorted(statuses):
        if runs and runs[-1][-1] == status - 1:
            runs[-1][1:] = [status]
        else:
            runs.append([status])
    return ", ".join("-".join(map(str, run)) for run in runs)


def write_amount(value: Any, unit: Unit | None) -> str:
    """An amount in a unit, or a plain number, as it is written in the configuration."""
    match unit:
        case "duration":
            return write_duration(value)
        case "size":
            return write_size(value)
        case "rate":
            return write_rate(value)
        case "statuses":
            return write_statuses(value)
    return str(value)


def _duration(value: Any, field: ValidationInfo) -> float:
    return value if isinstance(value, float) and field.context is not FROM_FILE else parse_duration(value)


def _size(value: Any, field: ValidationInfo) -> int:
    bare = isinstance(value, int) and not isinstance(value, bool)
    return value if bare and field.context is not FROM_FILE else parse_size(value)


def _rate(value: Any, field: ValidationInfo) -> float:
    return value if isinstance(value, float) and field.context is not FROM_FILE else parse_rate(value)


_DURATION: Final = BeforeValidator(_duration)
_SIZE: Final = BeforeValidator(_size)
_RATE: Final = BeforeValidator(_rate)
_STATUSES: Final = BeforeValidator(parse_statuses)
_MARKS: Final[dict[Unit, BeforeValidator]] = {
    "duration": _DURATION,
    "size": _SIZE,
    "rate": _RATE,
    "statuses": _STATUSES,
}

Duration = Annotated[
    float,
    _DURATION,
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^\d+(\.\d+)?(ms|s|m|h|d)$",
            "examples": ["250ms", "30s", "5m"],
            "x-unit": "duration",
        }
    ),
]
"""Seconds, written `250ms`, `30s`, `5m`, `1h`, `7d`. A default in code is a float of seconds."""

Size = Annotated[
    int,
    _SIZE,
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^\d+(B|KB|MB|GB|KiB|MiB|GiB)$",
            "examples": ["64KiB", "10MB"],
            "x-unit": "size",
        }
    ),
]
"""Bytes, written `512B`, `64KiB`, `10MB`. A default in code is an int of bytes."""

Rate = Annotated[
    float,
    _RATE,
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^\d+(\.\d+)?%$",
            "examples": ["50%", "0.5%"],
            "x-unit": "rate",
        }
    ),
]
"""A part of a whole, written `50%`. A default in code is a float: 0.5."""

Statuses = Annotated[
    frozenset[int],
    _STATUSES,
    WithJsonSchema(
        {
            "type": ["integer", "string", "array"],
            "items": {"type": ["integer", "string"]},
            "examples": ["200-299", [200, "300-399"]],
            "x-unit": "statuses",
        }
    ),
]
"""HTTP statuses, written `200`, `200-399` or as a list of both."""

_NAMES_UPSTREAM: Final = object()

UpstreamName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$"), _NAMES_UPSTREAM]
"""The name of an upstream. In the options of a plugin it must be one that exists."""

NAMES_ROLES: Final = object()
"""Marks an option that lists names of the section `roles`: each must be one that exists."""

_LISTS_PLUGINS: Final = object()

PluginList = Annotated[list[dict[str, Any]], Field(min_length=1, max_length=16), _LISTS_PLUGINS]
"""Plugins in the options of another, written as everywhere: `- name: {options}`. A plugin has one such list at most."""


def plugin_list(kind: type[Options]) -> str | None:
    """The key of the option that lists plugins; None if there is none."""
    return next((key for key, name in fields_by_key(kind).items() if lists_plugins(kind.model_fields[name])), None)


def lists_plugins(option: FieldInfo) -> bool:
    """Whether this is the option of a plugin that lists others."""
    return _LISTS_PLUGINS in option.metadata


def blocks_of(options: Options, kind: type[Options]) -> Iterator[Way]:
    """The keys that lead to each block of this kind, in a block and the blocks inside it."""
    return (way for way, _, value in _within(options) if isinstance(value, kind))


def named_upstreams(options: Options) -> Iterator[Way]:
    """The keys that lead to each option that names an upstream, in a block and the blocks inside it."""
    return (way for way, option, _ in _within(options) if _NAMES_UPSTREAM in option.metadata)


def named_roles(options: Options) -> Iterator[Way]:
    """The keys that lead to each option that lists roles, in a block and the blocks inside it."""
    return (way for way, option, _ in _within(options) if NAMES_ROLES in option.metadata)


def _within(options: Options) -> Iterator[tuple[Way, FieldInfo, Any]]:
    for key, name in fields_by_key(type(options)).items():
        value = getattr(options, name)
        yield (key,), type(options).model_fields[name], value
        if isinstance(value, Options):
            yield from (((key, *way), option, inner) for way, option, inner in _within(value))
