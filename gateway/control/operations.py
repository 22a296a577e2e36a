"""Operations: everything that can be asked of the API. The router and the OpenAPI document are made of this list.

Each says what is needed to ask for it, what it takes and what it gives; `api.py` sees to all of that, so that no
operation can forget it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeAlias

from gateway.control import handlers, shapes
from gateway.control.collection import COLLECTIONS, KEY_WITH_SECRET, KEYS, ORGANIZATIONS, Collection
from gateway.control.handlers import Answer, Call
from gateway.control.shapes import Shape

Handler: TypeAlias = Callable[[Call], Awaitable[Answer]]


@dataclass(frozen=True)
class Operation:
    """One way to ask: a method and a path, and all there is to know of it."""

    identifier: str
    method: Literal["GET", "POST", "PATCH", "DELETE"]
    path: str
    summary: str
    handler: Handler = field(repr=False)
    tag: str
    collection: Collection | None = None
    permission: str | None = None
    for_all: bool = False
    """Whether only those can ask who act for every organization."""
    body: type[Shape] | None = None
    answer: type[Shape] | None = None
    status: int = 200
    paged: bool = False
    versioned: bool = False
    """Whether it changes a version, which If-Match must name."""
    repeatable: bool = False
    """Whether an Idempotency-Key makes repeating it safe."""


def operations() -> tuple[Operation, ...]:
    """All of them."""
    reading = partial(Operation, tag="audit", permission="control/audit:read", paged=True)
    audit = partial(reading, answer=shapes.AuditEntry)
    decided = partial(reading, answer=shapes.DecisionEntry, handler=handlers.show_decisions)
    below, everywhere = "/v1/organizations/{organization}/audit", "/v1/audit"
    return (
        Operation(
            *("readIdentity", "GET", "/v1/identity", "Who is asking", handlers.identify),
            tag="identity",
            answer=shapes.Identity,
        ),
        *(operation for collection in COLLECTIONS for operation in _of_collection(collection)),
        *_of_keys(),
        audit("listAudit", "GET", everywhere, "What was changed, newest first", handlers.show_audit, for_all=True),
        audit("listOrganizationAudit", "GET", below, "What was changed there, newest first", handlers.show_audit),
        decided("listDecisions", "GET", f"{everywhere}/decisions", "What the edge decided, newest first", for_all=True),
        decided("listOrganizationDecisions", "GET", f"{below}/decisions", "What the edge decided of its callers"),
    )


def _of_collection(of: Collection) -> Iterator[Operation]:
    one = of.shape.__name__
    said = of.name.replace("-", " ")
    hidden = of.kind == "token_revocation"
    reading = partial(Operation, tag=of.name, collection=of, permission=of.permission("read"), for_all=hidden)
    for_all = of.of_the_platform and of is not ORGANIZATIONS
    writing = partial(Operation, tag=of.name, collection=of, permission=of.permission("write"), for_all=for_all)
    yield reading(
        *(f"list{one}s", "GET", of.collection_path, f"The {said}, by name", handlers.show_page),
        answer=of.view,
        paged=True,
    )
    yield writing(
        *(f"create{one}", "POST", of.collection_path, f"Make one of the {said}", handlers.make),
        body=of.shape,
        answer=KEY_WITH_SECRET if of is KEYS else of.view,
        status=201,
        repeatable=True,
    )
    yield reading(f"read{one}", "GET", of.path, f"One of the {said}", handlers.read, answer=of.view)
    yield writing(
        *(f"change{one}", "PATCH", of.path, f"Change one of the {said}", handlers.change),
        body=of.patch,
        answer=of.view,
        versioned=True,
    )
    if of.removable:
        yield writing(
            *(f"remove{one}", "DELETE", of.path, f"Remove one of the {said}", handlers.remove),
            status=204,
            versioned=True,
        )


def _of_keys() -> Iterator[Operation]:
    writing = partial(Operation, tag=KEYS.name, collection=KEYS, permission=KEYS.permission("write"))
    yield writing(
        *("rotateKey", "POST", f"{KEYS.path}/rotate", "Give a key a new secret", handlers.rotate),
        body=shapes.Rotation,
        answer=KEY_WITH_SECRET,
        repeatable=True,
    )
    yield writing(
        *("revokeKey", "POST", f"{KEYS.path}/revoke", "Refuse a key from now on, for ever", handlers.revoke),
        answer=KEYS.view,
    )
