"""List options: what the configuration may list; everything that is wrong with a list is said at once, in its place."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, TypeAlias

from pydantic import AfterValidator, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import InitErrorDetails

METHOD: Final = re.compile(r"[A-Z]+(-[A-Z]+)*")
"""A method as it is written in options."""


def each_once(what: str) -> WrapValidator:
    """Metadata of a list whose items must differ in their `name`, or in themselves where they have none.

    An item that comes again is said in its place, together with all else that is wrong with the list.
    """

    def check(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        found = _repeated(what, value)
        try:
            checked = validate(value)
        except ValidationError as error:
            found += [
                {"type": each["type"], "loc": each["loc"], "input": each["input"], "ctx": each.get("ctx", {})}
                for each in error.errors(include_url=False)
            ]
        if found:
            raise ValidationError.from_exception_data(what, found)
        return checked

    return WrapValidator(check)


def _repeated(what: str, value: Any) -> list[InitErrorDetails]:
    found: list[InitErrorDetails] = []
    names: set[str] = set()
    for place, item in enumerate(value if isinstance(value, list) else ()):
        name = item.get("name") if isinstance(item, dict) else item
        if isinstance(name, str):
            if name in names:
                error = ValueError(f'{what} "{name}" is listed twice')
                found.append({"type": "value_error", "loc": (place,), "input": item, "ctx": {"error": error}})
            names.add(name)
    return found


def _method(value: str) -> str:
    if not METHOD.fullmatch(value):
        raise ValueError(f"not a method: {value!r} (write GET, POST, …)")
    return value


Methods: TypeAlias = Annotated[list[Annotated[str, AfterValidator(_method)]], each_once("method")]
"""Methods in capital letters."""
