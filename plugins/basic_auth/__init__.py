"""Know the consumer by user name and password (RFC 7617)."""

from __future__ import annotations

import os
import re
from base64 import b64decode, b64encode
from collections.abc import Awaitable
from hashlib import blake2b
from typing import Final, NamedTuple
from unicodedata import normalize

from pydantic import Field

from gateway.authentication import Authenticator, Realm, credentials_of
from gateway.consumers import Consumer
from gateway.exchange import Exchange
from gateway.expiring import Expiring
from gateway.headers import Headers
from gateway.metrics import GaugePart
from gateway.options import Duration
from gateway.passwords import decoy, hash_password, matches, prepared
from gateway.plugin import PluginConfig
from gateway.problem import Overloaded
from gateway.services import Services
from gateway.single_flight import SingleFlight
from plugins.basic_auth.failures import Failures

_LONGEST: Final = 2048
"""Characters of credentials; what is longer is not worth a hash."""
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CHECKED_AT_ONCE: Final = 256


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


class _Credentials(NamedTuple):
    """A user name, a password as it is hashed, and a digest of both that tells nothing without this process's key."""

    user: str
    password: bytes
    digest: bytes


class BasicAuth(Authenticator[Config]):
    """Passwords are those of `consumers`. They are checked in threads, a few at a time, and remembered when they are
    right. An unknown user costs a check as well, so that time does not tell who is known.

    Whoever listens in on plain HTTP has the password: serve this on listeners with `tls`.
    """

    def __init__(self, config: Config, services: Services) -> None:
        super().__init__(config, services)
        self.challenge = f'Basic realm="{config.realm}", charset="UTF-8"'
        self._find = self._in_fields  # bound once: `Headers.once` knows it again
        self._key = os.urandom(32)
        self._passwords = services.consumers.passwords
        first = next(iter(self._passwords.values()), None)
        self._decoy = decoy(first[0] if first is not None else hash_password(""))
        metrics, now = services.metrics, services.clock.monotonic
        size = metrics.gauge("tallygate_basic_auth_remembered", "Passwords remembered because they were right.")
        self._right: Expiring[Consumer] = Expiring(config.max_remembered, now, GaugePart(size))
        networks = metrics.gauge(
            "tallygate_basic_auth_failing_networks", "Networks of clients that sent a wrong password of late."
        )
        failing: Expiring[list[int]] = Expiring(config.max_remembered, now, GaugePart(networks))
        self._failures = Failures(failing, config.max_failures, config.failure_window)
        self._checks: SingleFlight[Consumer | None] = SingleFlight("basic_auth", services.background, _CHECKED_AT_ONCE)
        self._wrong = metrics.counter("tallygate_basic_auth_wrong_total", "Passwords that were wrong, of anybody's.")

    def inherit(self, previous: BasicAuth) -> None:
        self._failures = previous._failures
        if previous._passwords is self._passwords:  # else they may have changed
            self._right, self._key = previous._right, previous._key

    async def start(self) -> None:
        self._right.retain()
        self._failures.remembered.retain()

    async def stop(self) -> None:
        self._right.release()
        self._failures.remembered.release()

    def authenticate(self, exchange: Exchange) -> Consumer | Awaitable[Consumer] | None:
        found = exchange.request.headers.once(self._find)
        if found is None:
            return None
        consumer = self._right.get(found.digest)
        return consumer if consumer is not None else self._ask(found, exchange.request.client)

    def _in_fields(self, headers: Headers) -> _Credentials | None:
        try:
            said = credentials_of(headers, "basic")
            if said is None:
                return None
            user, password = read_credentials(said)
        except ValueError:
            raise self.refusal() from None
        if not self.config.forward:
            del headers["authorization"]
        digest = blake2b(b"%b:%b" % (user.encode(), password), key=self._key, digest_size=32).digest()
        return _Credentials(user, password, digest)

    async def _ask(self, found: _Credentials, client: str) -> Consumer:
        """Who it is, by a check that all share who send the same meanwhile."""
        consumer = await self._checks.join(found.digest, lambda: self._check(found, client))
        if consumer is None:
            raise self.refusal()
        return consumer

    async def _check(self, found: _Credentials, client: str) -> Consumer | None:
        phc, consumer = self._passwords.get(found.user, (self._decoy, None))
        attempts = self._failures.reserve(client)
        try:
            right = await self.services.workers.run(matches, phc, found.password)
        except Overloaded:
            attempts[0] -= 1
            raise
        if not right or consumer is None:
            self._wrong.inc()
            return None
        attempts[0] -= 1
        if self.config.remember:
            self._right.put(found.digest, consumer, self.config.remember)
        return consumer


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
