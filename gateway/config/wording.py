"""What pydantic found wrong with a block of options, said in plain words and placed where the reader wrote it.

pydantic's own texts speak of inputs, instances and validators, repeat values that may be secrets, and report each
branch of a union on its own; none of that helps somebody who edits a YAML file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any, Final, NamedTuple, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gateway.config.source import Steps, descend, has
from gateway.options import Options, alternatives, fields_by_key, is_options, unit_of, write_amount

_EXPECTED: Final = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of ordinary size",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "`true` or `false`",
    "bool_parsing": "`true` or `false`",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "dict_type": "a block of `key: value` lines",
    "model_type": "a block of `key: value` lines",
    "model_attributes_type": "a block of `key: value` lines",
    "none_required": "left empty",
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "finite_number": "a finite number",
    "string_too_short": "at least {min_length} characters long",
    "string_too_long": "at most {max_length} characters long",
    "string_pattern_mismatch": "text of the form {pattern}",
}
"""What a value must be, by pydantic's type of error; the braces take from its context."""

_KINDS: Final = {
    bool: "`true` or `false`",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a block",
}
_UNION_BRANCH: Final = frozenset(key for key, text in _EXPECTED.items() if "{" not in text) | {"literal_error", "enum"}


class Finding(NamedTuple):
    """One thing wrong with a block: the way to the value from that block, what to say, and whether that quotes it.

    `key` names a key of the value that the text is about, where that is a better place to look at than the value.
    """

    steps: Steps
    text: str
    quotes: bool
    key: str | None = None


class _Placed(NamedTuple):
    """An error of pydantic with the way to its value; `branch` where it is only one arm of a union that did not fit."""

    steps: Steps
    branch: bool
    error: ErrorDetails


def findings(kind: type[Options], error: ValidationError, value: Any) -> list[Finding]:
    """Each thing that makes `value` no valid `kind`, worded for the person who wrote it."""
    placed = [_placed(detail, value) for detail in error.errors(include_url=False)]
    found: list[Finding] = []
    for steps in dict.fromkeys(item.steps for item in placed):
        here = [item for item in placed if item.steps == steps]
        arms = [item.error for item in here if item.branch]
        rest = [item.error for item in here if not item.branch]
        deeper = any(len(item.steps) > len(steps) and item.steps[: len(steps)] == steps for item in placed)
        if arms and not rest and not deeper:
            found.append(Finding(steps, _must_be(arms, descend(value, steps)), quotes=False))
        found += [_finding(kind, steps, detail, value) for detail in rest]
    return found


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean "max_age"?)` where a known word is close, else nothing."""
    close = get_close_matches(word[:64], list(known), n=1, cutoff=0.6)
    return f' (did you mean "{close[0]}"?)' if close else ""


def _placed(error: ErrorDetails, value: Any) -> _Placed:
    """Follow pydantic's location through the value; what is not found there names the branch of a union."""
    location = error["loc"][:-1] if error["type"] == "missing" else error["loc"]
    steps: list[str | int] = []
    skipped = False
    for step in location:
        if has(value, step):
            steps.append(step)
            value = value[step]
            skipped = False
        else:
            skipped = step != "[key]"
    return _Placed(tuple(steps), skipped and error["type"] in _UNION_BRANCH, error)


def _finding(kind: type[Options], steps: Steps, error: ErrorDetails, value: Any) -> Finding:
    match error["type"]:
        case "missing":
            return Finding(steps, f'missing key "{error["loc"][-1]}"', quotes=False)
        case "extra_forbidden":
            key = str(error["loc"][-1])
            text = f'unknown key "{key}"{did_you_mean(key, known_keys(kind, error["loc"][:-1]))}'
            return Finding(steps[:-1], text, quotes=False, key=key)
        case "value_error" | "assertion_error":
            return Finding(steps, str(error["ctx"]["error"]), quotes=True)
        case "too_short":
            return Finding(steps, f"needs at least {_count(error['ctx']['min_length'])}", quotes=False)
        case "too_long":
            return Finding(steps, f"holds more than {_count(error['ctx']['max_length'])}", quotes=False)
    if (unit := unit_of(_metadata(kind, error["loc"]))) and "ctx" in error:
        error = {**error, "ctx": {name: write_amount(bound, unit) for name, bound in error["ctx"].items()}}
    quotes = error["type"] not in _EXPECTED and error["type"] not in ("literal_error", "enum")
    return Finding(steps, _must_be([error], descend(value, steps)), quotes)


def _must_be(errors: list[ErrorDetails], value: Any) -> str:
    """`must be a whole number, not text`; several arms of a union are joined with "or"."""
    expected = list(dict.fromkeys(_expected(error) for error in errors))
    text = "must be " + " or ".join(expected)
    if any(error["type"] in ("literal_error", "enum") for error in errors):
        words = [word for error in errors for word in _literals(error)]
        return text + (did_you_mean(value, words) if isinstance(value, str) else f", not {_kind_of(value)}")
    if errors[0]["type"] not in _UNION_BRANCH or _kind_of(value) in expected:
        return text
    if any(error["type"] == "int_from_float" for error in errors):
        return text + ", not a fraction"
    quotes = " (put it in quotes)" if expected == ["text"] and isinstance(value, bool | int | float) else ""
    return f"{text}, not {_kind_of(value)}{quotes}"


def _expected(error: ErrorDetails) -> str:
    words = _literals(error)
    if words:
        *others, last = [f"`{word}`" for word in words]
        return f"{', '.join(others)} or {last}" if others else last
    if template := _EXPECTED.get(error["type"]):
        return template.format_map(error.get("ctx", {}))
    return error["msg"].removeprefix("Input should be ").removeprefix("Value error, ")


def _literals(error: ErrorDetails) -> list[str]:
    if error["type"] not in ("literal_error", "enum"):
        return []
    return [word.strip("'") for word in error["ctx"]["expected"].replace(" or ", ", ").split(", ")]


def _kind_of(value: Any) -> str:
    return _KINDS.get(type(value), "empty")


def _count(number: int) -> str:
    return f"{number} item" if number == 1 else f"{number} items"


def known_keys(kind: type[Options], location: Iterable[str | int]) -> list[str]:
    """The keys that the block at `location` inside a `kind` may have."""
    return [key for block in _blocks_at(kind, location) for key in fields_by_key(block)]


def _metadata(kind: type[Options], location: tuple[str | int, ...]) -> list[Any]:
    """The metadata of the option at `location`: its bounds and its unit."""
    for block in _blocks_at(kind, location[:-1]) if location else ():
        if name := fields_by_key(block).get(str(location[-1])):
            return block.model_fields[name].metadata
    return []


def _blocks_at(kind: type[Options], location: Iterable[str | int]) -> list[type[Options]]:
    here: list[Any] = [kind]
    for step in location:
        here = [deeper for annotation in here for deeper in _step(annotation, step)] or here
    return [annotation for annotation in here if is_options(annotation)]


def _step(annotation: Any, step: str | int) -> Iterator[Any]:
    if is_options(annotation):
        name = fields_by_key(annotation).get(str(step))
        if name is not None:
            yield from alternatives(annotation.model_fields[name].annotation)
        elif annotation.__name__ == step:  # the arm of a union
            yield annotation
    elif get_args(annotation) and isinstance(step, int) == (get_origin(annotation) is not dict):
        yield from alternatives(get_args(annotation)[-1])
