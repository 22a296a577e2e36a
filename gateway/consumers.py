"""Consumers: who calls, and which organization pays for it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Final, TypeAlias

from pydantic import Field, field_validator

from gateway.options import Options

CONSUMER_FIELD: Final = "X-Tallygate-Consumer"
ORGANIZATION_FIELD: Final = "X-Tallygate-Organization"
USER_FIELD: Final = "X-Tallygate-User"
"""The header fields that tell an upstream who calls; a client's own are never believed."""

# What goes into a header field and a usage record: visible ASCII, of bounded length.
_NAME: Final = re.compile(r"[!-~](?:[ -~]{0,126}[!-~])?")
Name: TypeAlias = Annotated[str, Field(pattern=rf"^{_NAME.pattern}$")]
_NONE: Final[Mapping[str, str]] = MappingProxyType({})


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
    """A fixed consumer, for running without a control plane."""

    name: Name
    """Who calls; appears in logs."""
    organization: Name
    """Who pays; usage is billed to it."""
    subscription: Annotated[str, Field(pattern=r"^[!-~]{0,128}$")] = ""
    """The subscription that usage is booked on."""
    keys: list[KeyOptions] = []
    """The consumer's API keys, hashed."""


class Consumer:
    """Who calls (`name`), who pays (`organization`), and the key that said so (`key` is its id, never the secret).

    `user` is the person behind it, if there is one. `roles`, `scopes` (of a token) and `permissions` are what it may
    do, as text that authorization reads; `attributes` are other facts about it, such as a certificate's subject.
    `identity` is the header lines that tell an upstream who calls. Raises ValueError for a name that cannot stand in a
    header line.
    """

    __slots__ = (
        *("attributes", "identity", "key", "name", "organization", "permissions", "plan_version", "roles", "scopes"),
        *("subscription", "user"),
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
        self.attributes = attributes
        said = {CONSUMER_FIELD: name, ORGANIZATION_FIELD: organization} | ({USER_FIELD: user} if user else {})
        for text in said.values():
            if not _NAME.fullmatch(text):
                raise ValueError("a name of a caller is visible ASCII, at most 128 characters")
        self.identity = "".join(f"{field}: {text}\r\n" for field, text in said.items()).encode("ascii")


class Consumers:
    """All consumers of the configuration, found by the SHA-256 of their key."""

    def __init__(self, options: Iterable[ConsumerOptions] = ()) -> None:
        self._by_digest = {
            bytes.fromhex(key.sha256): Consumer(who.name, who.organization, who.subscription, "", key.id)
            for who in options
            for key in who.keys
        }

    def by_key_digest(self, digest: bytes) -> Consumer | None:
        """The consumer whose key has this SHA-256, or None.

        A dictionary look-up on a digest leaks no timing about the key: to steer the comparison, one would have to
        steer SHA-256.
        """
        return self._by_digest.get(digest)
