"""Foreign tokens: those of other issuers, told by what they claim, so that another `jwt_auth` may judge them.

Nobody has vouched for that claim yet, and nothing is let in by it: whoever is named decides by keys of its own.
"""

from __future__ import annotations

from gateway.expiring import Expiring
from gateway.metrics import GaugePart
from gateway.services import Services
from plugins.jwt_auth.compact import Presented, decode_part
from plugins.jwt_auth.options import Config
from plugins.jwt_auth.strict_json import read_object


class ForeignTokens:
    """What was found out about tokens is remembered for as long, and of as many, as of those that were verified."""

    def __init__(self, config: Config, services: Services) -> None:
        issuers = config.issuers()
        self._issuers = None if issuers is None else frozenset(issuers)
        self._longest = config.max_size
        self._lifetime = config.cache.lifetime
        metrics = services.metrics
        self._found = metrics.counter(
            "tallygate_jwt_tokens_total", "Tokens by what became of them, repeated valid ones left out.", ("result",)
        ).labels("foreign")
        size = metrics.gauge("tallygate_jwt_foreign_remembered", "Tokens in memory that other issuers made.")
        self.known: Expiring[bool] = Expiring(config.cache.verified, services.clock.monotonic, GaugePart(size))

    def has(self, presented: Presented) -> bool:
        """Whether the token says that another issuer made it. One that cannot be read says nothing."""
        if self._issuers is None:
            return False
        if self.known.get(presented.digest):
            return True
        if len(presented.text) > self._longest or not self._names_another(presented.text, self._issuers):
            return False
        self.known.put(presented.digest, True, self._lifetime)
        self._found.inc()
        return True

    @staticmethod
    def _names_another(text: str, issuers: frozenset[str]) -> bool:
        parts = text.split(".")
        try:
            issuer = read_object(decode_part(parts[1])).get("iss") if len(parts) == 3 else None
        except ValueError:
            return False
        return isinstance(issuer, str) and issuer not in issuers
