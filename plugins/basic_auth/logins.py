"""Logins: which passwords are right, which were checked of late, and checking those that were not."""

from __future__ import annotations

import os
from hashlib import blake2b
from typing import Final, NamedTuple

from gateway.consumers import Consumer
from gateway.expiring import Expiring
from gateway.metrics import GaugePart
from gateway.passwords import decoy, matches
from gateway.problem import Overloaded
from gateway.services import Services
from gateway.single_flight import SingleFlight
from plugins.basic_auth.failures import Failures

_CHECKED_AT_ONCE: Final = 256
_FAILING_NETWORKS: Final = 10_000


class Credentials(NamedTuple):
    """A user name, a password as it is hashed, and a digest of both that tells nothing without this process's key."""

    user: str
    password: bytes
    digest: bytes


class Logins:
    """Shared by all plugins with the same options."""

    def __init__(
        self, services: Services, remember_seconds: float, most: int, max_failures: int, window_seconds: float
    ) -> None:
        """`most` passwords are remembered; `max_failures` may fail from one network of a client within the window."""
        self._passwords = services.consumers.passwords
        self._workers = services.workers
        self._remember = remember_seconds
        self._key = os.urandom(32)
        self._decoy = next((decoy(phc) for phc, _ in self._passwords.values()), decoy())
        metrics, now = services.metrics, services.clock.monotonic
        size = metrics.gauge("tallygate_basic_auth_remembered", "Passwords remembered because they were right.")
        self._right: Expiring[Consumer] = Expiring(most, now, GaugePart(size))
        networks = metrics.gauge(
            "tallygate_basic_auth_failing_networks", "Networks of clients that sent a wrong password of late."
        )
        failing: Expiring[list[int]] = Expiring(_FAILING_NETWORKS, now, GaugePart(networks))
        self._failures = Failures(failing, max_failures, window_seconds)
        self._checks: SingleFlight[Consumer | None] = SingleFlight("basic_auth", services.background, _CHECKED_AT_ONCE)
        self._wrong = metrics.counter("tallygate_basic_auth_wrong_total", "Passwords that were wrong, of anybody's.")

    def inherit(self, previous: Logins) -> None:
        """Go on with who failed and, unless they may have changed, with which passwords are right."""
        self._failures = previous._failures
        if previous._passwords is self._passwords:
            self._right, self._key = previous._right, previous._key

    def retain(self) -> None:
        self._right.retain()
        self._failures.remembered.retain()

    def release(self) -> None:
        self._right.release()
        self._failures.remembered.release()

    def credentials(self, user: str, password: bytes) -> Credentials:
        """What a client wrote, made ready. A user name has no colon, so that no two pairs are one text."""
        digest = blake2b(b"%b:%b" % (user.encode(), password), key=self._key, digest_size=32).digest()
        return Credentials(user, password, digest)

    def remembered(self, digest: bytes) -> Consumer | None:
        """Whose credentials these are, if they were right of late."""
        return self._right.get(digest)

    async def check(self, found: Credentials, client: str) -> Consumer | None:
        """Whose credentials they are, by a check that all share who send the same meanwhile; None for wrong ones.

        Raises TooManyFailures, and Overloaded where too many wait to be checked.
        """
        return await self._checks.join(found.digest, lambda: self._check(found, client))

    async def _check(self, found: Credentials, client: str) -> Consumer | None:
        phc, consumer = self._passwords.get(found.user, (self._decoy, None))
        attempts = self._failures.reserve(client)
        try:
            right = await self._workers.run(matches, phc, found.password)
        except Overloaded:
            attempts[0] -= 1
            raise
        if not right or consumer is None:
            self._wrong.inc()
            return None
        attempts[0] -= 1
        if self._remember:
            self._right.put(found.digest, consumer, self._remember)
        return consumer
