"""OpenAPI: the document that describes the API (OpenAPI 3.1), made of the operations and of what they check by."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from pydantic.json_schema import models_json_schema

from gateway import __version__
from gateway.control.asking import JSON, LONGEST_PAGE, MERGE_PATCH, USUAL_PAGE
from gateway.control.shapes import Shape

if TYPE_CHECKING:
    from gateway.control.operations import Operation

_REFERENCE: Final = "#/components/schemas/{model}"
_NAME: Final = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}$"}
_REFUSALS: Final = {
    "400": "The request cannot be read.",
    "401": "There is no valid credential.",
    "403": "The caller may not do this.",
    "404": "There is no such thing, or it is out of the caller's reach.",
    "408": "The request did not arrive in time.",
    "409": "There is such a thing already, or others still name it.",
    "412": "It has changed since the version that If-Match names.",
    "413": "The body is too large.",
    "415": "The body is of a type that is not taken.",
    "422": "The request says something that cannot be.",
    "428": "If-Match is missing.",
    "503": "The service has no room, or its store does not answer; try again later.",
}
_ETAG: Final = {"ETag": {"description": "Its version, for If-Match.", "schema": {"type": "string"}}}


def document(operations: Iterable[Operation]) -> dict[str, Any]:
    """The whole document."""
    listed = tuple(operations)
    schemas = _schemas(listed)
    paths: dict[str, dict[str, Any]] = {}
    for operation in listed:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tallygate control plane",
            "version": __version__,
            "description": "Organizations, users, roles, keys and subscriptions, published to every edge process.",
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "The bootstrap token, or an API key."}
            },
        },
    }


def _schemas(operations: Iterable[Operation]) -> dict[str, Any]:
    shapes = {shape.__name__: shape for each in operations for shape in (each.body, each.answer) if shape is not None}
    _, whole = models_json_schema([(shape, "validation") for shape in shapes.values()], ref_template=_REFERENCE)
    schemas: dict[str, Any] = whole["$defs"]
    for operation in operations:
        if operation.paged and operation.answer is not None:
            schemas[_page_name(operation.answer)] = {
                "type": "object",
                "description": "A part of a list.",
                "required": ["items", "next"],
                "additionalProperties": False,
                "properties": {
                    "items": {"type": "array", "items": _reference(operation.answer.__name__)},
                    "next": {
                        "type": ["string", "null"],
                        "description": "`after` of the part that follows; null where this is the last one.",
                    },
                },
            }
    schemas["Problem"] = {
        "type": "object",
        "description": "What went wrong (RFC 9457).",
        "required": ["type", "title", "status"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "instance": {"type": "string"},
        },
    }
    return schemas


def _operation(operation: Operation) -> dict[str, Any]:
    said: dict[str, Any] = {
        "operationId": operation.identifier,
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": _parameters(operation),
        "responses": _responses(operation),
    }
    if operation.permission is not None:
        said["x-permission"] = operation.permission
    if operation.body is not None:
        media = MERGE_PATCH if operation.method == "PATCH" else JSON
        said["requestBody"] = {
            "required": True,
            "content": {media: {"schema": _reference(operation.body.__name__)}},
        }
    return said


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    names = re.findall(r"\{(\w+)\}", operation.path)
    found: list[dict[str, Any]] = [{"name": name, "in": "path", "required": True, "schema": _NAME} for name in names]
    if operation.paged:
        found += [
            {
                "name": "after",
                "in": "query",
                "schema": {"type": "string"},
                "description": "Where to go on: `next` of the part before.",
            },
            {
                "name": "limit",
                "in": "query",
                "schema": {"type": "integer", "minimum": 1, "maximum": LONGEST_PAGE, "default": USUAL_PAGE},
            },
        ]
    if operation.versioned:
        found.append(
            {
                "name": "If-Match",
                "in": "header",
                "required": True,
                "schema": {"type": "string", "pattern": '^"[1-9][0-9]{0,8}"$', "examples": ['"1"']},
                "description": "The ETag of the version that is changed.",
            }
        )
    if operation.repeatable:
        found.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
                "description": "Makes repeating the request safe for a day: it gets the same answer.",
            }
        )
    return found


def _responses(operation: Operation) -> dict[str, Any]:
    statuses = {"400", "401", "403", "404", "408", "413", "503"}
    if operation.body is not None:
        statuses |= {"409", "415", "422"}
    if operation.versioned:
        statuses |= {"409", "412", "428"}
    problem = {"application/problem+json": {"schema": _reference("Problem")}}
    refusals = {status: {"description": _REFUSALS[status], "content": problem} for status in sorted(statuses)}
    return {str(operation.status): _success(operation), **refusals}


def _success(operation: Operation) -> dict[str, Any]:
    if operation.answer is None:
        return {"description": "It is gone."}
    name = _page_name(operation.answer) if operation.paged else operation.answer.__name__
    said: dict[str, Any] = {"description": "Done.", "content": {JSON: {"schema": _reference(name)}}}
    if operation.collection is not None and not operation.paged:
        said["headers"] = dict(_ETAG)
    return said


def _page_name(shape: type[Shape]) -> str:
    return f"{shape.__name__}Page"


def _reference(name: str) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(model=name)}
