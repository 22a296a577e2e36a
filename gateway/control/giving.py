"""Giving: nobody gives more than they have. What a change makes possible is compared with what its maker may do.

A role gives all that it allows, to a narrowed key too: what narrows it can be lifted. It gives its name besides, which
routes may ask for. A role of all that allows nothing is nothing but a name: who does not have it cannot give it.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from gateway.control import grants
from gateway.control.collection import Collection
from gateway.control.principal import Principal
from gateway.postgres import Connection
from gateway.problem import AlreadyExists


class Given(NamedTuple):
    """What somebody comes to have: what is allowed and denied, and the roles of all that are mere names."""

    permissions: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


async def given_by(of: Collection, connection: Connection, organization: str | None, name: str) -> Given:
    """What this thing makes possible as it is now, and what it denies; nothing if there is none."""
    match of.kind:
        case "role":
            return await _by_roles(connection, organization, [name])  # without one of its own: that of all
        case "global_role":
            return Given((await _by_role_of_all(connection, name)).permissions)
        case "membership" | "service_account":
            rows = await connection.rows(f"{of.kind}.read", organization, name)
            roles = [role for row in rows for role in msgspec.json.decode(row["document"])["roles"]]
            return await _by_roles(connection, organization, roles)
        case "api_key":
            return await _by_roles(connection, organization, await connection.value("roles_of_key", organization, name))
    return Given()


async def check(
    of: Collection,
    connection: Connection,
    giver: Principal,
    organization: str | None,
    name: str,
    before: Given = Given(),  # noqa: B008 - it never changes
) -> None:
    """Whether the giver may do all that this thing, as it is now, allows. Raises PermissionDenied.

    It is asked after the change and before its commit, so that it is about what will be. What was denied `before` and
    is not any more is given, too: to everybody whom only that kept from it.
    """
    after = await given_by(of, connection, organization, name)
    giver.require_to_give(after.permissions, after.names)
    giver.require_to_give(grants.lifted(before.permissions, after.permissions))


async def check_name(
    of: Collection, connection: Connection, giver: Principal, organization: str | None, name: str
) -> Given:
    """Whether what is to be made may have this name, if it is a role. Raises AlreadyExists and PermissionDenied.

    One of an organization would stand before that of all: only who could give that may make it. Returns what the name
    gives until then.
    """
    if of.kind not in ("role", "global_role"):
        return Given()
    await connection.run("lock_role_name", name)
    if of.kind == "role":
        before = await _by_role_of_all(connection, name)
        giver.require_to_give(before.permissions, before.names)
        return before
    for row in await connection.rows("own_roles_of_name", name):
        raise AlreadyExists(
            f"There are organizations with a role of their own of this name, such as {row['organization']}."
        )
    return Given()


async def _by_roles(connection: Connection, organization: str | None, roles: list[str]) -> Given:
    rows = await connection.rows("permissions_of_roles", organization, roles)
    mere = tuple(row["name"] for row in rows if row["of_all"] and grants.allows_nothing(row["permissions"]))
    return Given(tuple(dict.fromkeys(permission for row in rows for permission in row["permissions"])), mere)


async def _by_role_of_all(connection: Connection, name: str) -> Given:
    for row in await connection.rows("global_role.read", name):
        permissions = tuple(msgspec.json.decode(row["document"])["permissions"])
        return Given(permissions, (name,) if grants.allows_nothing(permissions) else ())
    return Given()
