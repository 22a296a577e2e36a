"""Know the consumer by user name and password (RFC 7617)."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Awaitable
from typing import Final
from unicodedata import normalize

from pydantic import Field

from gateway.authentication import Authenticator, Realm
from gateway.consumers import Consumer
from gateway.credentials import credentials_of
from gateway.exchange import Exchange
from gateway.headers import Headers
from gateway.options import Duration
from gateway.passwords import prepared
from gateway.plugin import PluginConfig
from gateway.services import Services
from plugins.basic_auth.logins import Credentials, Logins

_LONGEST: Final = 2048
"""Characters of credentials; what is longer is not worth a hash."""
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Config(PluginConfig):
    """How long a password that was checked counts, and how many wrong ones may come."""

    realm: Realm = "tallygate"
    """What a refusal, and with it the browser's dialog, calls the protected area."""
    forward: bool = False
    """Leave the credentials in the request that goes upstream."""
    remember: Duration = Field(default=300.0, ge=0, le=86400)
    """How long a password that was right is not checked again; each check costs tens of milliseconds of a core."""
    max_remembered: int = Field(default=10_000, ge=1, le=1_000_000)
    """Passwords that are remembered so, as keyed digests; beyond that, the one not used the longest is forgotten."""
    max_failures: int = Field(default=10, ge=1, le=10_000)
    """Wrong passwords from one client address (of IPv6: one /64 network) within `failure_window`; then further ones
    are refused unchecked (429). Passwords that are remembered still count."""
    failure_window: Duration = Field(default=60.0, gt=0, le=86400)
    """How long wrong passwords count."""


class BasicAuth(Authenticator[Config]):
    """Passwords are those of `consumers`. They are checked in threads, a few at a time, and remembered when they are
    right. An unknown user costs a check as well, so that time does not tell who is known; that holds where all hashes
    cost the same, as those of `tallygate passwords new` do.

    Whoever listens in on plain HTTP has the password: serve this on listeners with `tls`.
    """

    asks_for_secrets = True

    @classmethod
    def in_authorization(cls, config: Config) -> str:
        return "basic"

    def __init__(self, config: Config, services: Services) -> None:
        super().__init__(config, services)
        self.challenge = f'Basic realm="{config.realm}", charset="UTF-8"'
        self._find = self._in_fields  # bound once: `Headers.once` knows it again
        how = (config.remember, config.max_remembered, config.max_failures, config.failure_window)
        self._logins = services.joint(("basic_auth", *how), lambda: Logins(services, *how))

    def inherit(self, previous: BasicAuth) -> None:
        self._logins.inherit(previous._logins)

    async def start(self) -> None:
        self._logins.retain()

    async def stop(self) -> None:
        self._logins.release()

    def authenticate(self, exchange: Exchange) -> Consumer | Awaitable[Consumer] | None:
        found = exchange.request.headers.once(self._find)
        if found is None:
            return None
        consumer = self._logins.remembered(found.digest)
        return consumer if consumer is not None else self._check(found, exchange.request.client)

    async def _check(self, found: Credentials, client: str) -> Consumer:
        consumer = await self._logins.check(found, client)
        if consumer is None:
            raise self.refusal()
        return consumer

    def _in_fields(self, headers: Headers) -> Credentials | None:
        try:
            said = credentials_of(headers.getall("authorization"), "basic")
            if said is None:
                return None
            found = self._logins.credentials(*read_credentials(said))
        except ValueError:
            raise self.refusal() from None
        if not self.config.forward:
            del headers["authorization"]
        return found


def read_credentials(said: str) -> tuple[str, bytes]:
    """User name and password, as they are compared. Raises ValueError for what RFC 7617 §2 does not allow.

    base64 is taken only in the one way that there is to write something, so that two texts are never one credential.
    """
    if len(said) > _LONGEST:
        raise ValueError("too long")
    plain = b64decode(said, validate=True)
    if b64encode(plain).decode() != said:
        raise ValueError("not base64 as it is written")
    user, colon, password = plain.decode("utf-8").partition(":")
    if not colon or _CONTROLS.search(user + password):
        raise ValueError("no colon, or control characters")
    return normalize("NFC", user), prepared(password)
