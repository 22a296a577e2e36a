"""The verifier: who a token is of. Verified once, then remembered by its digest until it ends."""

from __future__ import annotations

from collections.abc import Awaitable

from gateway.cache import Cache
from gateway.claims import ClaimMapping, Revocable
from gateway.credentials import InvalidToken, Reason
from gateway.directory.claimed import Claimed
from gateway.metrics import GaugePart
from gateway.problem import IssuerDown, retry_after
from gateway.services import Services
from plugins.jwt_auth.claims import Caller, ClaimRules, caller_of
from plugins.jwt_auth.compact import Presented, Token, TokenReader
from plugins.jwt_auth.foreign import ForeignTokens
from plugins.jwt_auth.issuer_keys import IssuerKeys
from plugins.jwt_auth.key import Key
from plugins.jwt_auth.key_set import KeySet
from plugins.jwt_auth.options import Config


class _Verified:
    """A token that was verified: `until` in nanoseconds since the epoch, `keys` the set that its `key` is in."""

    __slots__ = ("claimed", "key", "keys", "revocable", "until")

    def __init__(self, caller: Caller, until: int, key: Key, keys: KeySet) -> None:
        self.claimed, self.revocable = caller
        self.until = until
        self.key = key
        self.keys = keys


class Verifier:
    """What plugins with the same options have together: rules, keys, and what is remembered."""

    def __init__(self, config: Config, services: Services, issuer_keys: IssuerKeys | None) -> None:
        self._reader = TokenReader(config.algorithms, config.types, config.max_size)
        self._rules = ClaimRules(config)
        self._mapping = ClaimMapping(config.claims)
        self.foreign = ForeignTokens(config, services)
        self._static = KeySet(config.static_keys())
        self.issuer_keys = issuer_keys
        self._is_revoked = services.directory.is_revoked
        self._nanos = services.clock.nanos
        self._lifetime = int(config.cache.lifetime * 1e9)
        metrics = services.metrics
        results = metrics.counter(
            "tallygate_jwt_tokens_total", "Tokens by what became of them, repeated valid ones left out.", ("result",)
        )
        self._accepted, self._invalid, self._undecided = (
            results.labels(result) for result in ("verified", "refused", "undecided")
        )
        verified = metrics.gauge("tallygate_jwt_tokens_remembered", "Verified tokens in memory.")
        refused = metrics.gauge("tallygate_jwt_refusals_remembered", "Tokens in memory whose signature was wrong.")
        evicted = metrics.counter(
            "tallygate_jwt_tokens_evicted_total", "Verified tokens that were forgotten to make room."
        )
        self._verified: Cache[_Verified] = Cache(config.cache.verified, GaugePart(verified), evicted)
        self._refused: Cache[tuple[KeySet, ...]] = Cache(config.cache.refused, GaugePart(refused))

    def inherit(self, previous: Verifier) -> None:
        """Go on with what the one before a reload has in memory. Idempotent."""
        self._verified = previous._verified
        if self.issuer_keys is not None and previous.issuer_keys is not None:
            self.issuer_keys.inherit(previous.issuer_keys)

    async def start(self) -> None:
        """Begin to fetch keys. Each plugin that uses this does so."""
        if self.issuer_keys is not None:
            await self.issuer_keys.start()
        for memory in (self._verified, self._refused, self.foreign.known):
            memory.retain()

    def stop(self) -> None:
        """One that has started uses this no more; with the last one goes what is remembered."""
        for memory in (self._verified, self._refused, self.foreign.known):
            memory.release()
        if self.issuer_keys is not None:
            self.issuer_keys.stop()

    def leaves(self, presented: Presented) -> Reason | None:
        """Why nothing here can tell of the token, if that is so: another issuer made it, or it is none of this kind."""
        return None if presented.digest in self._verified else self.foreign.why(presented)

    def claimed(self, presented: Presented) -> Claimed | Awaitable[Claimed]:
        """Who the token is of; awaitable where keys must be fetched first.

        Raises InvalidToken, or IssuerDown where nobody can tell.
        """
        try:
            known = self._verified.get(presented.digest)
            if known is not None:
                if known.until > self._nanos() and self._still_trusts(known):
                    self._refuse_revoked(known.revocable)
                    return known.claimed
                self._verified.drop(presented.digest)
            return self._verify(presented)
        except InvalidToken:
            self._invalid.inc()
            raise

    def _refuse_revoked(self, revocable: Revocable) -> None:
        for kind, text in revocable:
            if self._is_revoked(kind, text):
                raise InvalidToken("revoked")

    def _still_trusts(self, known: _Verified) -> bool:
        """Whether the key that verified a token has not been withdrawn since."""
        issuer = self.issuer_keys
        if known.keys is self._static or (issuer is not None and known.keys is issuer.keys):
            return True
        for keys in self._sets():
            if known.key in keys:
                known.keys = keys
                return True
        return False

    def _sets(self) -> tuple[KeySet, ...]:
        """The sets of keys that count now."""
        issuer = self.issuer_keys
        return (self._static, issuer.keys) if issuer is not None and issuer.known else (self._static,)

    def _verify(self, presented: Presented) -> Claimed | Awaitable[Claimed]:
        if self._refused.get(presented.digest) == self._sets():
            raise InvalidToken("signature")
        token = self._reader.read(presented.text)
        self._rules.check(token.claims, self._nanos() / 1e9)
        claimed = self._decide(presented, token)
        if claimed is not None:
            return claimed
        issuer = self.issuer_keys
        if issuer is None or not issuer.worth_waiting:
            raise self._unknown_key()
        return self._look_again(presented, token, issuer)

    async def _look_again(self, presented: Presented, token: Token, issuer: IssuerKeys) -> Claimed:
        """Decide by the keys that the issuer has now."""
        await issuer.look_again()
        try:
            claimed = self._decide(presented, token)
            if claimed is None:
                raise self._unknown_key()
        except InvalidToken:
            self._invalid.inc()
            raise
        return claimed

    def _decide(self, presented: Presented, token: Token) -> Claimed | None:
        """Who it is by the keys that are known; None if the one that signed is not. Raises InvalidToken."""
        sets = self._sets()
        for keys in sets:
            key = keys.signer(token)
            if key is not None:
                return self._admit(presented, token, key, keys)
        if self.issuer_keys is None or any(keys.names(token.kid) for keys in sets):
            self._refused.put(presented.digest, sets)
            raise InvalidToken("signature")
        return None

    def _unknown_key(self) -> InvalidToken | IssuerDown:
        if self.issuer_keys is None or self.issuer_keys.answering:
            return InvalidToken("unknown key")
        self._undecided.inc()
        return IssuerDown(headers=retry_after(1.0))

    def _admit(self, presented: Presented, token: Token, key: Key, keys: KeySet) -> Claimed:
        """The signature is right: who it is, and for how long that is remembered."""
        now = self._nanos()
        ends = self._rules.check(token.claims, now / 1e9)
        caller = caller_of(token.claims, self._mapping)
        self._refuse_revoked(caller.revocable)
        until = now + self._lifetime if ends is None else min(int(ends * 1e9), now + self._lifetime)
        self._verified.put(presented.digest, _Verified(caller, until, key, keys))
        self._accepted.inc()
        return caller.claimed
