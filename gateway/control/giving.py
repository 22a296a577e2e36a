"""Giving: nobody gives more than they have. What a change makes possible is compared with what its maker may do."""

from __future__ import annotations

import msgspec

from gateway.control import grants
from gateway.control.collection import Collection
from gateway.control.principal import Principal
from gateway.postgres import Connection


async def allowed(of: Collection, connection: Connection, organization: str | None, name: str) -> tuple[str, ...]:
    """What this thing makes possible as it is now, and what it denies; nothing if there is none."""
    match of.kind:
        case "role":
            return await _allowed_by(connection, organization, [name])  # without one of its own: that of all
        case "global_role":
            rows = await connection.rows("global_role.read", name)
            return tuple(
                permission for row in rows for permission in msgspec.json.decode(row["document"])["permissions"]
            )
        case "membership" | "service_account":
            rows = await connection.rows(f"{of.kind}.read", organization, name)
            roles = [role for row in rows for role in msgspec.json.decode(row["document"])["roles"]]
            return await _allowed_by(connection, organization, roles)
        case "api_key":
            (row,) = await connection.rows("roles_of_key", organization, name)
            return grants.narrowed(await _allowed_by(connection, organization, row["roles"]), row["permissions"])
    return ()


async def check(
    of: Collection,
    connection: Connection,
    giver: Principal,
    organization: str | None,
    name: str,
    before: tuple[str, ...] = (),
) -> None:
    """Whether the giver may do all that this thing, as it is now, allows. Raises PermissionDenied.

    It is asked after the change and before its commit, so that it is about what will be. What was denied `before` and
    is not any more is given, too: to everybody whom only that kept from it.
    """
    after = await allowed(of, connection, organization, name)
    giver.require_all(after)
    giver.require_all(grants.lifted(before, after))


async def _allowed_by(connection: Connection, organization: str | None, roles: list[str]) -> tuple[str, ...]:
    rows = await connection.rows("permissions_of_roles", organization, roles)
    return tuple(dict.fromkeys(permission for row in rows for permission in row["permissions"]))
