"""Consumers: who calls, and which organization pays for it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Final, TypeAlias

from pydantic import Field, field_validator

from gateway.options import Options

CONSUMER_FIELD: Final = "X-Tallygate-Consumer"
ORGANIZATION_FIELD: Final = "X-Tallygate-Organization"
"""The header fields that tell an upstream who calls; a client's own are never believed."""

# What goes into a header field and a usage record: visible ASCII, of bounded length.
Name: TypeAlias = Annotated[str, Field(pattern=r"^[!-~]([ -~]{0,126}[!-~])?$")]


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


class Consumer:
    """Who calls (`name`), who pays (`organization`), and the key that said so (`key` is its id, never the secret).

    `identity` is the header lines that tell an upstream who calls.
    """

    __slots__ = ("identity", "key", "name", "organization", "plan_version", "subscription")

    def __init__(
        self, name: str, organization: str, subscription: str = "", plan_version: str = "", key: str = ""
    ) -> None:
        self.name = name
        self.organization = organization
        self.subscription = subscription
        self.plan_version = plan_version
        self.key = key
        self.identity = f"{CONSUMER_FIELD}: {name}\r\n{ORGANIZATION_FIELD}: {organization}\r\n".encode("ascii")


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
