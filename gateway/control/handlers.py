"""Handlers: what each kind of operation does, in a transaction that can reach no other tenant's rows.

Listing, making, reading, changing and removing are the same for every collection.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import msgspec

from gateway import keys
from gateway.clock import Clock
from gateway.control import giving, shapes
from gateway.control.asking import cursor_of
from gateway.control.collection import COLLECTIONS, KEYS, ORGANIZATIONS, Collection
from gateway.control.database import EVERYBODY
from gateway.control.giving import Given
from gateway.control.principal import Principal
from gateway.control.shapes import Shape
from gateway.postgres import Connection, Referenced, Row, Taken
from gateway.problem import (
    AlreadyExists,
    BadRequest,
    InUse,
    InvalidValues,
    NotFound,
    PermissionDenied,
    TooMany,
    VersionMismatch,
)

_encode: Final = msgspec.json.Encoder().encode
_LAST: Final = 2**63 - 1


@dataclass(slots=True)
class Call:
    """A request, understood: who asks for what, in which transaction."""

    connection: Connection
    collection: Collection | None
    principal: Principal
    clock: Clock
    organization: str | None
    name: str
    body: Shape | None
    version: int | None
    after: str | None
    limit: int

    @property
    def of(self) -> Collection:
        """Its collection, which all but a few have."""
        if self.collection is None:
            raise TypeError("this operation has no collection")
        return self.collection

    @property
    def home(self) -> tuple[str, ...]:
        """What the statements of a collection begin with: the organization, if it has one."""
        return () if self.organization is None else (self.organization,)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered: a JSON document, or nothing."""

    document: str | None
    version: int | None = None
    location: str | None = None
    """The path of what was made."""
    shown_once: str | None = None
    """The document that is answered this once, where it has a secret that `document` says nothing of."""


async def identify(call: Call) -> Answer:
    who = call.principal
    organization = None if who.tenant == EVERYBODY else who.tenant
    return Answer(_encode({"name": who.name, "organization": organization, "permissions": who.permissions}).decode())


async def show_page(call: Call) -> Answer:
    rows = await call.connection.rows(f"{call.of.kind}.list", *call.home, call.after or "", call.limit + 1)
    return _page(rows, call.limit)


async def show_audit(call: Call) -> Answer:
    return await _show_newest(call, "audit")


async def show_decisions(call: Call) -> Answer:
    return await _show_newest(call, "decisions")


async def _show_newest(call: Call, entries: str) -> Answer:
    query = f"{entries}_of_all" if call.organization is None else f"{entries}_of_organization"
    before = call.after or str(_LAST)
    if not before.isdecimal() or int(before) > _LAST:
        raise BadRequest("`after` is what an earlier page of this list gave as `next`.")
    return _page(await call.connection.rows(query, *call.home, int(before), call.limit + 1), call.limit)


def _page(rows: list[Row], limit: int) -> Answer:
    shown = rows[:limit]
    following = "null" if len(rows) <= limit else _encode(cursor_of(shown[-1]["name"])).decode()
    return Answer(f'{{"items":[{",".join(row["document"] for row in shown)}],"next":{following}}}')


async def read(call: Call) -> Answer:
    rows = await call.connection.rows(f"{call.of.kind}.read", *call.home, call.name)
    if not rows:
        raise NotFound(f"There is no {call.of.said} of this name.")
    return Answer(rows[0]["document"], rows[0]["version"])


async def make(call: Call) -> Answer:
    assert call.body is not None  # noqa: S101  # the operation has a body
    of = call.of
    members = call.body.model_dump(mode="json")
    call.name = members["name"] = members["name"] or f"{of.shape.__name__.lower()}-{call.clock.uuid7().hex()}"
    if of is ORGANIZATIONS:
        await _check_founding(call, members)
    _check_end(call)
    await _check_roles(call, members)
    if of.most is not None and await call.connection.value(f"{of.kind}.are_as_many", *call.home, of.most):
        raise TooMany(f"There are {of.most} {of.name}.")
    before = await giving.check_name(of, call.connection, call.principal, call.organization, call.name)
    try:
        async with call.connection.atomic():
            await call.connection.run(f"{of.kind}.make", *call.home, _encode(members).decode())
    except Taken as error:
        raise AlreadyExists(of.unique.get(error.constraint)) from None
    except Referenced as error:
        raise _missing(of, error) from None
    secret = None
    if of is KEYS:
        secret = await _add_secret(call)
    await giving.check(of, call.connection, call.principal, call.organization, call.name, before)
    made = await read(call)
    location = of.path.format(organization=call.organization or call.name, name=call.name)
    return replace(_with_secret(made, secret) if secret is not None else made, location=location)


async def change(call: Call) -> Answer:
    assert call.body is not None  # noqa: S101  # the operation has a body
    of = call.of
    was = await _check_version(call)
    members = call.body.model_dump(mode="json", exclude_unset=True)
    if "roles" in members:
        await _check_roles(call, was | members)
    before = await _denying(call)
    try:
        async with call.connection.atomic():
            arguments = (*call.home, call.name, call.version, _encode(members).decode())
            changed = await call.connection.value(f"{of.kind}.change", *arguments)
    except Taken as error:
        raise AlreadyExists(of.unique.get(error.constraint)) from None
    except Referenced as error:
        raise _missing(of, error) from None
    if not changed:  # somebody else was quicker
        raise VersionMismatch
    await giving.check(of, call.connection, call.principal, call.organization, call.name, before)
    return await read(call)


async def remove(call: Call) -> Answer:
    await _check_version(call)
    if call.of.kind == "role":
        for row in await call.connection.rows("uses_of_role", *call.home, call.name):
            raise InUse(f"It is given to {row['place']}.")
    before = await _denying(call)
    try:
        async with call.connection.atomic():
            removed = await call.connection.value(f"{call.of.kind}.remove", *call.home, call.name, call.version)
    except Referenced as error:
        raise _needed(call.of, error) from None
    if not removed:
        raise VersionMismatch
    await giving.check(call.of, call.connection, call.principal, call.organization, call.name, before)
    return Answer(None)


async def rotate(call: Call) -> Answer:
    assert isinstance(call.body, shapes.Rotation)  # noqa: S101  # the operation's body
    key = (*call.home, call.name)
    await read(call)
    if not await call.connection.rows("lock_key", *key):
        raise InUse("A key that has expired or was revoked gets no new secret.")
    await giving.check(KEYS, call.connection, call.principal, call.organization, call.name)
    await call.connection.run("end_older_secrets", *key, call.body.grace_seconds)
    secret = await _add_secret(call)
    await call.connection.run("touch_key", *key)
    return _with_secret(await read(call), secret)


async def revoke(call: Call) -> Answer:
    await call.connection.run("revoke_key", *call.home, call.name)
    return await read(call)


async def _denying(call: Call) -> Given:
    """What a thing allows and denies before it is changed or removed. A key is compared whole: it is nobody's part."""
    if call.of is KEYS:
        return Given()
    return await giving.given_by(call.of, call.connection, call.organization, call.name)


async def _add_secret(call: Call) -> str:
    secret = keys.new_key("live")
    await call.connection.run("add_secret", keys.digest(secret), call.organization, call.name, secret[:12])
    return secret


def _with_secret(made: Answer, secret: str) -> Answer:
    """What was made, with its secret this once, and with null for whoever repeats the request."""
    members = msgspec.json.decode(made.document or "{}")
    kept, once = (_encode(members | {"secret": said}).decode() for said in (None, secret))
    return replace(made, document=kept, shown_once=once)


def _missing(of: Collection, error: Referenced) -> InvalidValues:
    """What it names and what does not exist. Its organization was there when the transaction began."""
    found = [name for name in of.shape.model_fields if error.constraint.endswith(f"_{name}_fkey")]
    said = [{"pointer": f"/{name}", "detail": f"There is no {name.replace('_', ' ')} of this name."} for name in found]
    return InvalidValues(errors=said) if said else InvalidValues("Its organization has just been removed.")


def _needed(of: Collection, error: Referenced) -> InUse:
    """What still belongs to it, and what can be done."""
    others = next((each.name.replace("-", " ") for each in COLLECTIONS if each.kind == error.table), "things")
    can_be_disabled = "disabled" in of.shape.model_fields
    if error.table == KEYS.kind:
        way = ": disable it instead" if can_be_disabled else ""
        return InUse(f"There are keys that belong to it, and keys stay on record{way}.")
    way = ", or disable it" if can_be_disabled else ""
    return InUse(f"There are {others} that belong to it: change or remove them first{way}.")


async def _check_version(call: Call) -> dict[str, Any]:
    """The members of the thing, which must be there in the version that the request names."""
    found = await read(call)
    if found.version != call.version or found.document is None:
        raise VersionMismatch(f"It is at version {found.version}.")
    members: dict[str, Any] = msgspec.json.decode(found.document)
    return members


def _check_end(call: Call) -> None:
    """What has ended before it is made is a mistake."""
    end: datetime | None = getattr(call.body, "expires_at", None)
    if end is not None and end.timestamp() * 1e6 <= call.clock.micros():
        raise InvalidValues(errors=[{"pointer": "/expires_at", "detail": "That is in the past."}])


async def _check_roles(call: Call, members: dict[str, Any]) -> None:
    if members.get("roles") and call.organization is not None:
        of_team = members.get("team") is not None
        unknown = await call.connection.value("unknown_roles", call.organization, members["roles"], of_team)
        if unknown:
            raise InvalidValues(f"There is no role {unknown[0]!r} that could be given here.")


async def _check_founding(call: Call, members: dict[str, Any]) -> None:
    """Who does not act for all makes organizations below their own only."""
    if call.principal.tenant != EVERYBODY and (members["parent"] is None or members["operator"]):
        raise PermissionDenied("This organization can only make others below itself, and no operators.")
    if members["parent"] is not None and not await call.connection.value("is_within_reach", members["parent"]):
        raise InvalidValues("The organization above it does not exist.")
