"""Cookie: one value out of the Cookie field, and a Set-Cookie line (RFC 6265)."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field

from gateway.headers import TCHAR, Headers

CookieName: TypeAlias = Annotated[str, Field(pattern=rf"^{TCHAR}{{1,64}}$")]
SameSite: TypeAlias = Literal["strict", "lax", "none"]

_VALUE: Final = re.compile(r"[!#-+\--:<-\[\]-~]*")


def read_cookie(headers: Headers, name: str) -> str | None:
    """The value of the first cookie of this name; None if the client sent none."""
    for line in headers.getall("cookie"):
        for pair in line.split(";"):
            key, equals, value = pair.partition("=")
            if equals and key.strip() == name:
                return _plain(value)
    return None


def without_cookie(field: str, name: str) -> tuple[str, list[str]]:
    """A Cookie field without the cookies of this name, and the values they had."""
    kept: list[str] = []
    values: list[str] = []
    for pair in field.split(";"):
        key, equals, value = pair.partition("=")
        if equals and key.strip() == name:
            values.append(_plain(value))
        else:
            kept.append(pair.strip())
    return "; ".join(kept), values


def _plain(value: str) -> str:
    return value.strip().removeprefix('"').removesuffix('"')


def write_cookie(
    name: str, value: str, *, max_age: float | None = None, secure: bool = True, same_site: SameSite = "lax"
) -> str:
    """A Set-Cookie value for the whole site, which scripts cannot read; without `max_age` it ends with the session.

    Raises ValueError for a value that no cookie can have.
    """
    if not _VALUE.fullmatch(value):
        raise ValueError(f"not the value of a cookie: {value!r}")
    age = "" if max_age is None else f"; Max-Age={max_age:.0f}"
    return f"{name}={value}; Path=/{age}; HttpOnly{'; Secure' if secure else ''}; SameSite={same_site.capitalize()}"
