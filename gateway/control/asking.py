"""Asking: what a request to the API says, read strictly: what is not understood is refused, never passed over."""

from __future__ import annotations

import binascii
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from gateway.control.shapes import Shape
from gateway.problem import (
    BadRequest,
    IdempotencyKeyInvalid,
    InvalidValues,
    MalformedBody,
    MediaTypeNotSupported,
    VersionMissing,
)

LARGEST_BODY: Final = 256 * 1024
"""Bytes; the lists that a body may carry fit in several times over."""
LONGEST_PAGE: Final = 200
USUAL_PAGE: Final = 50
JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}")
_VERSION: Final = re.compile(r'"([1-9][0-9]{0,8})"')
_IDEMPOTENCY_KEY: Final = re.compile(r"[!-~]{1,255}")
_MOST_FINDINGS: Final = 20


class Page(NamedTuple):
    """Which part of a list is asked for: what follows `after`, and how many."""

    after: str | None
    limit: int


def body_of(raw: bytes, content_type: str, shape: type[Shape], *, patch: bool) -> Shape:
    """The body as a `shape`. Raises MediaTypeNotSupported, MalformedBody and InvalidValues."""
    if content_type.partition(";")[0].strip().lower() not in ((JSON, MERGE_PATCH) if patch else (JSON,)):
        raise MediaTypeNotSupported(f"Send {MERGE_PATCH if patch else JSON}.")
    try:
        value = json.loads(raw.decode(), object_pairs_hook=_without_repetition, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise MalformedBody(_sentence(error)) from None
    if not isinstance(value, dict):
        raise MalformedBody
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        raise InvalidValues(errors=_findings(error)) from None


def version_of(fields: Sequence[str]) -> int:
    """The version that If-Match names (RFC 9110 §13.1.1). Raises VersionMissing and BadRequest."""
    if not fields:
        raise VersionMissing
    match = _VERSION.fullmatch(fields[0].strip()) if len(fields) == 1 else None
    if match is None:
        raise BadRequest('If-Match is to name one version as its ETag said it, such as "3".')
    return int(match[1])


def idempotency_key_of(fields: Sequence[str]) -> str | None:
    """The idempotency key, if there is one. Raises IdempotencyKeyInvalid."""
    if not fields:
        return None
    if len(fields) > 1 or not _IDEMPOTENCY_KEY.fullmatch(fields[0]):
        raise IdempotencyKeyInvalid("It is one field of 1 to 255 visible ASCII characters.")
    return fields[0]


def page_of(query: Sequence[tuple[str, str]], *, paged: bool) -> Page:
    """The page that the query asks for. Raises BadRequest."""
    known: dict[str, str] = {}
    for name, value in query:
        if not paged or name not in ("after", "limit") or name in known:
            raise BadRequest("The query says something that means nothing here, or says it twice.")
        known[name] = value
    limit = known.get("limit", str(USUAL_PAGE))
    if not re.fullmatch(r"[0-9]{1,3}", limit) or not 1 <= int(limit) <= LONGEST_PAGE:
        raise BadRequest(f"`limit` is a number from 1 to {LONGEST_PAGE}.")
    return Page(place_of(known["after"]) if "after" in known else None, int(limit))


def cursor_of(name: str) -> str:
    """The place behind this name, as `after` says it."""
    return urlsafe_b64encode(name.encode()).decode().rstrip("=")


def place_of(cursor: str) -> str:
    """The name that a cursor stands for. Raises BadRequest."""
    try:
        name = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except (binascii.Error, ValueError):
        name = ""
    if not NAME.fullmatch(name) or cursor_of(name) != cursor:
        raise BadRequest("`after` is what an earlier page gave as `next`.")
    return name


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member occurs twice")
    return members


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _sentence(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "The body is not UTF-8."
    if isinstance(error, RecursionError):
        return "The body is nested too deeply."
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}."
    return f"In the body, {error}."


def _findings(error: ValidationError) -> list[dict[str, str]]:
    """What is wrong, member by member (RFC 9457 §3.2 has such a list); what was sent is not repeated."""
    return [
        {
            "pointer": "/" + "/".join(str(step).replace("~", "~0").replace("/", "~1")[:128] for step in each["loc"]),
            "detail": each["msg"].removeprefix("Value error, ")[:300],
        }
        for each in error.errors(include_url=False, include_context=False, include_input=False)[:_MOST_FINDINGS]
    ]
