"""Consumers: who calls, and which organization pays for it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import field_validator

from gateway.options import Options


class KeyOptions(Options):
    """One key of a consumer. The key itself is never stored, only its hash."""

    id: str
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

    name: str
    """Who calls; appears in logs."""
    organization: str
    """Who pays; usage is billed to it."""
    subscription: str = ""
    """The subscription that usage is booked on."""
    keys: list[KeyOptions] = []
    """The consumer's API keys, hashed."""


@dataclass(frozen=True, slots=True)
class Consumer:
    """Who calls (`name`), who pays (`organization`), and the key that said so (`key` is its id, never the secret)."""

    name: str
    organization: str
    subscription: str = ""
    plan_version: str = ""
    key: str = ""


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
