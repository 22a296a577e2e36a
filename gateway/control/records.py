"""Records: rows of PostgreSQL as what the edge has to know, roles resolved to what they allow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from gateway.control import grants
from gateway.postgres import Row
from gateway.projection import KeyLimit, KeyRecord, OrganizationRecord

_decode_limits = msgspec.json.Decoder(tuple[KeyLimit, ...]).decode


class Roles:
    """What the roles of some organizations allow. A role of their own stands before one of everybody's."""

    def __init__(self, allowed: dict[str, dict[str, tuple[str, ...]]], of_teams: dict[str, set[str]]) -> None:
        self._allowed = allowed
        self._of_teams = of_teams

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Roles:
        """From rows of `roles_of_organizations`."""
        allowed: dict[str, dict[str, tuple[str, ...]]] = {"": {}}
        of_teams: dict[str, set[str]] = {}
        for row in rows:
            allowed.setdefault(row["organization"], {})[row["name"]] = tuple(row["permissions"])
            if row["scope"] == "team":
                of_teams.setdefault(row["organization"], set()).add(row["name"])
        return cls(allowed, of_teams)

    def permissions(self, organization: str, names: Iterable[str]) -> tuple[str, ...]:
        """All that these roles allow; a role that is gone allows nothing."""
        own, everybody = self._allowed.get(organization, {}), self._allowed[""]
        found = (permission for name in names for permission in own.get(name, everybody.get(name, ())))
        return tuple(dict.fromkeys(found))

    def known(self, organization: str, names: Iterable[str]) -> tuple[str, ...]:
        """Those of these roles that there are, each once."""
        own, everybody = self._allowed.get(organization, {}), self._allowed[""]
        return tuple(dict.fromkeys(name for name in names if name in own or name in everybody))

    def of_all(self, organization: str, names: Iterable[str]) -> frozenset[str]:
        """Those of these roles that are roles of all, without any of its own before them."""
        return frozenset(names) & self._allowed[""].keys() - self._allowed.get(organization, {}).keys()

    def for_tokens(self, organization: str) -> dict[str, tuple[str, ...]]:
        """The roles that a token can name: not those for teams, as a token says nothing of a team."""
        allowed = self._allowed[""] | self._allowed.get(organization, {})
        return {name: allowed[name] for name in allowed if name not in self._of_teams.get(organization, ())}


def key_record(row: Row, roles: Roles) -> KeyRecord:
    """A row of `published_secret`.

    A key with permissions of its own has no roles: a role's name may open more than what is left of it.
    """
    organization, held = row["organization"], row["roles"]
    attributes: dict[str, str] = {} if row["team"] is None else {"team": row["team"]}
    return KeyRecord(
        id=row["key"],
        name=row["user"] or row["service_account"] or row["key"],
        organization=organization,
        user=row["user"] or "",
        subscription=row["subscription"],
        plan=row["plan"],
        roles=roles.known(organization, held) if row["permissions"] is None else (),
        permissions=grants.narrowed(roles.permissions(organization, held), row["permissions"]),
        attributes=attributes,
        routes=tuple(row["routes"]),
        networks=tuple(row["networks"]),
        limits=_decode_limits(row["limits"]) if row["limits"] != "[]" else (),
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        epoch=row["version"],
    )


def organization_record(row: Row, roles: Roles) -> OrganizationRecord:
    """A row of `organizations`."""
    members: dict[str, Any] = {name: row[name] for name in ("name", "subscription", "plan", "disabled")}
    return OrganizationRecord(**members, roles=roles.for_tokens(row["name"]))
