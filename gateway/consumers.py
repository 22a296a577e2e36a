"""Consumers: who calls, and which organization pays for it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Final, TypeAlias

from pydantic import Field, field_validator

from gateway.options import Options
from gateway.permissions import Grants, PermissionText

CONSUMER_FIELD: Final = "X-Tallygate-Consumer"
ORGANIZATION_FIELD: Final = "X-Tallygate-Organization"
USER_FIELD: Final = "X-Tallygate-User"
"""The header fields that tell an upstream who calls; a client's own are never believed."""

# What goes into a header field and a usage record: visible ASCII, of bounded length.
_NAME: Final = re.compile(r"[!-~](?:[ -~]{0,126}[!-~])?")
Name: TypeAlias = Annotated[str, Field(pattern=rf"^{_NAME.pattern}$")]
_NONE: Final[Mapping[str, str]] = MappingProxyType({})

Roles: TypeAlias = Mapping[str, Iterable[str]]
"""Permissions by the name of the role that has them."""


class KeyOptions(Options):
    """One key of a consumer. The key itself is never stored, only its hash."""

    id: Name
    """Name of the key in usage records; safe to show."""
    sha256: str
    """SHA-256 of the key in hexadecimal, as `tallygate keys new` prints it."""

    @field_validator("sha256")
    @classmethod
    def _is_digest(cls, value: str) -> str:
        if not re.fullmatch(r"[0-9a-fA-F]{64}", value):
            raise ValueError("not a SHA-256 in hexadecimal: 64 digits are needed (`tallygate keys new` prints one)")
        return value.lower()


class ConsumerOptions(Options):
    """Somebody who calls, known by the hashes of his keys."""

    name: Name
    """Who calls; appears in logs."""
    organization: Name
    """Who pays; usage is billed to it."""
    subscription: Annotated[str, Field(pattern=r"^[!-~]{0,128}$")] = ""
    """The subscription that usage is booked on."""
    keys: list[KeyOptions] = []
    """The consumer's API keys, hashed."""
    roles: list[Name] = []
    """Its roles: names of the section `roles`."""
    permissions: list[PermissionText] = []
    """What it may do beyond its roles, or with a leading `!` may not."""
    attributes: dict[Name, str] = {}
    """Other facts about it that conditions ask for, as `attribute.NAME`."""


class Consumer:
    """Who calls (`name`), who pays (`organization`), and the key that said so (`key` is its id, never the secret).

    `user` is the person behind it, if there is one. `roles`, `scopes` (of a token) and `permissions` are what it may
    do, as text, `grants` its permissions made ready; `attributes` are other facts about it, such as a certificate's
    subject.
    `identity` is the header lines that tell an upstream who calls. Raises ValueError for a name that cannot stand in a
    header line.
    """

    __slots__ = (
        *("attributes", "grants", "identity", "key", "name", "organization", "permissions", "plan_version", "roles"),
        *("scopes", "subscription", "user"),
    )

    def __init__(
        self,
        name: str,
        organization: str,
        subscription: str = "",
        plan_version: str = "",
        key: str = "",
        *,
        user: str = "",
        roles: frozenset[str] = frozenset(),
        scopes: frozenset[str] = frozenset(),
        permissions: tuple[str, ...] = (),
        attributes: Mapping[str, str] = _NONE,
    ) -> None:
        self.name = name
        self.organization = organization
        self.subscription = subscription
        self.plan_version = plan_version
        self.key = key
        self.user = user
        self.roles = roles
        self.scopes = scopes
        self.permissions = permissions
        self.grants = Grants.of(permissions)
        self.attributes = attributes
        said = {CONSUMER_FIELD: name, ORGANIZATION_FIELD: organization} | ({USER_FIELD: user} if user else {})
        for text in said.values():
            if not _NAME.fullmatch(text):
                raise ValueError("a name of a caller is visible ASCII, at most 128 characters")
        self.identity = "".join(f"{field}: {text}\r\n" for field, text in said.items()).encode("ascii")


class Consumers:
    """All consumers of the configuration, found by the SHA-256 of their key; `roles` are the configuration's."""

    def __init__(self, options: Iterable[ConsumerOptions] = (), roles: Roles = MappingProxyType({})) -> None:
        self._roles = roles
        self._by_digest = {
            bytes.fromhex(key.sha256): self._consumer(who, key.id) for who in options for key in who.keys
        }

    def _consumer(self, who: ConsumerOptions, key: str) -> Consumer:
        return Consumer(
            who.name,
            who.organization,
            who.subscription,
            "",
            key,
            roles=frozenset(who.roles),
            permissions=tuple(dict.fromkeys((*self.permissions_of(who.roles), *who.permissions))),
            attributes=MappingProxyType(who.attributes),
        )

    def permissions_of(self, roles: Iterable[str]) -> tuple[str, ...]:
        """The permissions of these roles, each once; a role that the configuration does not know has none."""
        return tuple(dict.fromkeys(text for role in roles for text in self._roles.get(role, ())))

    def by_key_digest(self, digest: bytes) -> Consumer | None:
        """The consumer whose key has this SHA-256, or None.

        A dictionary look-up on a digest leaks no timing about the key: to steer the comparison, one would have to
        steer SHA-256.
        """
        return self._by_digest.get(digest)
