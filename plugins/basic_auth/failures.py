"""Failures: how often a wrong password came from an address of late, so that nobody goes on guessing for long."""

from __future__ import annotations

from gateway.expiring import Expiring
from gateway.networks import subnet
from gateway.problem import TooManyFailures, retry_after


class Failures:
    """At most `most` wrong passwords per network of a client and window; what is being checked counts until it proves
    right. Where too many networks are remembered, the one that tried the longest ago starts anew.
    """

    def __init__(self, remembered: Expiring[list[int]], most: int, window_seconds: float) -> None:
        self.remembered = remembered
        self._most = most
        self._window = window_seconds

    def reserve(self, address: str) -> list[int]:
        """Count an attempt; the count is to be lowered where it proves right. Raises TooManyFailures."""
        network = subnet(address)
        count = self.remembered.get(network)
        if count is None:
            count = [0]
            self.remembered.put(network, count, self._window)
        elif count[0] >= self._most:
            raise TooManyFailures(headers=retry_after(self._window))
        count[0] += 1
        return count
