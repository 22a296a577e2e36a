"""Foreign tokens: those of other issuers, told by what they claim, so that another `jwt_auth` may judge them, and those
that only look like a JWT, for `introspection`.

Nobody has vouched for what they say yet, and nothing is let in by it: whoever is named decides by keys of its own.
"""

from __future__ import annotations

from gateway.credentials import Reason
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
        size = metrics.gauge("tallygate_jwt_foreign_remembered", "Tokens in memory that are for others to judge.")
        self.known: Expiring[Reason] = Expiring(config.cache.verified, services.clock.monotonic, GaugePart(size))

    def why(self, presented: Presented) -> Reason | None:
        """Why the token is for others to judge: it is no JWT that is only signed, or it says that another issuer made
        it. None for one that is ours, or says nothing.
        """
        known = self.known.get(presented.digest)
        if known is not None or len(presented.text) > self._longest:
            return known
        reason = self._reason(presented.text)
        if reason is not None:
            self.known.put(presented.digest, reason, self._lifetime)
            self._found.inc()
        return reason

    def _reason(self, text: str) -> Reason | None:
        header, _, rest = text.partition(".")
        try:
            read_object(decode_part(header))
        except ValueError:
            return "malformed"  # an opaque token may have two dots as well
        parts = rest.split(".")
        if len(parts) != 2:
            return "malformed"  # such as one that is encrypted, of five parts
        try:
            issuer = read_object(decode_part(parts[0])).get("iss")
        except ValueError:
            return None
        named = self._issuers is not None and isinstance(issuer, str) and issuer not in self._issuers
        return "another issuer" if named else None
