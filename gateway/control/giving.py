"""Giving: nobody gives more than they have. What a change makes possible is compared with what its maker may do."""

from __future__ import annotations

import msgspec

from gateway.control import grants
from gateway.control.collection import Collection
from gateway.control.principal import Principal
from gateway.postgres import Connection


async def check(of: Collection, connection: Connection, giver: Principal, organization: str | None, name: str) -> None:
    """Whether the giver may do all that this thing, as it is now, allows. Raises PermissionDenied.

    It is asked after the change and before its commit, so that it is about what will be.
    """
    home = () if organization is None else (organization,)
    match of.kind:
        case "role" | "global_role":
            (row,) = await connection.rows(f"{of.kind}.read", *home, name)
            giver.require_all(tuple(msgspec.json.decode(row["document"])["permissions"]))
        case "membership" | "service_account":
            (row,) = await connection.rows(f"{of.kind}.read", *home, name)
            roles = msgspec.json.decode(row["document"])["roles"]
            giver.require_all(await _allowed_by(connection, organization, roles))
        case "api_key":
            (row,) = await connection.rows("roles_of_key", organization, name)
            allowed = await _allowed_by(connection, organization, row["roles"])
            giver.require_all(grants.narrowed(allowed, row["permissions"]))


async def _allowed_by(connection: Connection, organization: str | None, roles: list[str]) -> tuple[str, ...]:
    rows = await connection.rows("permissions_of_roles", organization, roles)
    return tuple(dict.fromkeys(permission for row in rows for permission in row["permissions"]))
