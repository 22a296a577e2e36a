"""Parameters: options whose text speaks of parts of the route's path, as `{param.id}` in a template or `param.id` in a
condition; so that a configuration can be refused where the path has no such part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Final, TypeAlias, Union, get_args, get_origin

from gateway.options import Options, fields_by_key

Way: TypeAlias = tuple[str | int, ...]

_PREFIX: Final = "param."


@dataclass(frozen=True)
class Speaks:
    """Marks an option whose text has names in it, such as a template; `of` finds them in text that is valid."""

    of: Callable[[str], Iterable[str]]

    def parameters(self, text: str) -> list[str]:
        """The parameters among the names, each once."""
        return list(dict.fromkeys(name.removeprefix(_PREFIX) for name in self.of(text) if name.startswith(_PREFIX)))


def parameters_in(options: Options) -> Iterator[tuple[Way, str]]:
    """The keys that lead to each text which speaks of a parameter, and the parameter's name."""
    for key, name in fields_by_key(type(options)).items():
        option = type(options).model_fields[name]
        for way, parameter in _spoken_of(option.annotation, option.metadata, getattr(options, name)):
            yield (key, *way), parameter


def _spoken_of(kind: Any, marks: Sequence[Any], value: Any) -> Iterator[tuple[Way, str]]:
    """The same in a value, by what its option is declared to be."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        yield from _spoken_of(inner[0], inner[1:], value)
    elif origin in (Union, UnionType):
        yield from (found for each in inner for found in _spoken_of(each, marks, value))
    elif origin is list and isinstance(value, list):
        yield from (
            ((place, *way), name) for place, item in enumerate(value) for way, name in _spoken_of(inner[0], (), item)
        )
    elif origin is dict and isinstance(value, dict):
        yield from (((key, *way), name) for key, item in value.items() for way, name in _spoken_of(inner[1], (), item))
    elif isinstance(value, Options) and type(value) is kind:
        yield from parameters_in(value)
    elif isinstance(value, str) and kind is str:
        yield from (((), name) for mark in marks if isinstance(mark, Speaks) for name in mark.parameters(value))
