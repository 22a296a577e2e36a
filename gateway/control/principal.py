"""Principal: who asks the API, and how it is known: by the bootstrap token, or by an API key of its own.

A key acts for its organization and those below it; one of an operator's organization acts for all. What it may do is
said by its permissions, such as `control/keys:write`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Final

from gateway import keys
from gateway.clock import Clock
from gateway.control import grants
from gateway.control.database import EVERYBODY
from gateway.control.records import Roles
from gateway.credentials import credentials_of
from gateway.permissions import Grants
from gateway.postgres import Database
from gateway.problem import PermissionDenied, Unauthorized
from gateway.stores.address import write_private
from gateway.stores.store import StoreUnavailable

TOKEN_VARIABLE: Final = "TALLYGATE_CONTROL_TOKEN"  # noqa: S105  # its name, not the token
LONGEST_TOKEN: Final = 512
_SHORTEST_TOKEN: Final = 16


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: `tenant` is the organization it acts for, or `EVERYBODY`."""

    name: str
    tenant: str
    permissions: tuple[str, ...]
    roles: frozenset[str] = frozenset()
    """The roles of all that it has; a narrowed key has none."""

    def require(self, permission: str) -> None:
        """Raises PermissionDenied, which says what is missing."""
        if not Grants.of(self.permissions).decide(permission).allowed:
            raise PermissionDenied(f"This needs the permission {permission}.", permission=permission)

    def require_to_give(self, granted: tuple[str, ...], names: tuple[str, ...] = ()) -> None:
        """Nobody gives more than they have: permissions, or `names` of roles of all. Raises PermissionDenied."""
        missing = grants.not_held(self.permissions, granted)
        if missing is not None:
            raise PermissionDenied(f"You cannot give {missing}: you do not have it yourself.", permission=missing)
        for name in names:
            if name not in self.roles and self.tenant != EVERYBODY:
                raise PermissionDenied(
                    f"You cannot give the role {name}, which is one of all: you do not have it yourself."
                )


class Authentication:
    """Knows callers by the field Authorization. Every refusal is the same, whatever was wrong."""

    def __init__(self, directory: Database, clock: Clock, bootstrap: str | None) -> None:
        """`directory` reads every organization's keys; `bootstrap` is the token that may do everything."""
        self._directory = directory
        self._clock = clock
        self._bootstrap = sha256(bootstrap.encode()).digest() if bootstrap is not None else None

    async def authenticate(self, authorization: list[str], address: str | None) -> Principal:
        """Who asks, by its Authorization fields and its address. Raises Unauthorized and DatabaseUnavailable."""
        try:
            token = credentials_of(authorization, "bearer")
        except ValueError:
            raise _refusal() from None
        if not token or len(token) > LONGEST_TOKEN or not token.isascii():
            raise _refusal()
        digest = sha256(token.encode()).digest()
        if self._bootstrap is not None and compare_digest(digest, self._bootstrap):
            return Principal("bootstrap", EVERYBODY, ("*:*",))
        if not keys.looks_valid(token):
            raise _refusal()
        return await self._by_key(digest, address)

    async def _by_key(self, digest: bytes, address: str | None) -> Principal:
        async with self._directory.session() as session:
            rows = await session.rows("published_secret", digest)
            if not rows:
                raise _refusal()
            (key,) = rows
            organization = key["organization"]
            roles = Roles.of(await session.rows("roles_of_organizations", [organization]))
            operator = await session.value("is_operator", organization)
        now = self._clock.micros() // 1_000_000
        if key["revoked_at"] is not None or (key["expires_at"] is not None and key["expires_at"] <= now):
            raise _refusal()
        if key["routes"] or not _within(key["networks"], address):
            raise _refusal()
        held, most = key["roles"], key["permissions"]
        return Principal(
            f"key {organization}/{key['key']}",
            EVERYBODY if operator else organization,
            grants.narrowed(roles.permissions(organization, held), most),
            roles.of_all(organization, held) if most is None else frozenset(),
        )


def bootstrap_token(file: str, environment: Mapping[str, str]) -> str:
    """The token of the environment, or else of the file, which is made where there is none.

    Raises StoreUnavailable for one that is too short, or cannot be read or written.
    """
    token = environment.get(TOKEN_VARIABLE)
    if token is None:
        token = _in_file(Path(file))
    if not _SHORTEST_TOKEN <= len(token) <= LONGEST_TOKEN or not token.isascii() or not token.isprintable():
        raise StoreUnavailable(
            f"the bootstrap token of the control plane is not {_SHORTEST_TOKEN} to {LONGEST_TOKEN} ASCII characters"
        )
    return token


def _in_file(path: Path) -> str:
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_private(path, secrets.token_urlsafe(32) + os.linesep)
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StoreUnavailable(f"the bootstrap token in {path} cannot be read: {error}") from error


def _within(networks: list[str], address: str | None) -> bool:
    if not networks:
        return True
    try:
        caller = ip_address(address or "")
    except ValueError:
        return False
    return any(caller in ip_network(network) for network in networks)


def _refusal() -> Unauthorized:
    return Unauthorized(headers={"www-authenticate": 'Bearer realm="tallygate control"'})
