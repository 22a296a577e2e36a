"""Know the consumer by a signature of the request that only it can make (RFC 9421, HMAC-SHA256)."""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Awaitable
from typing import Final

from pydantic import Field, field_validator

from gateway.authentication import Authenticator, Realm
from gateway.consumers import Consumer
from gateway.exchange import Exchange
from gateway.expiring import Expiring
from gateway.metrics import GaugePart
from gateway.options import Duration, Size
from gateway.plugin import PluginConfig
from gateway.problem import ContentTooLarge
from gateway.services import Services
from plugins.hmac_auth.digest import holds, read_digests
from plugins.hmac_auth.nonces import Nonces
from plugins.hmac_auth.signature import Signature, check_component, covers_request, read_signature, signed_text

ALGORITHM: Final = "hmac-sha256"
_SEEN: Final = 100_000
"""Nonces that a process remembers for itself; the store remembers all of them."""
_SPARE: Final = 30.0
"""Seconds that a nonce is remembered for longer than its signature counts: the clocks of processes may differ, and a
request may have waited since it was admitted."""
_NONCE: Final = re.compile(r"[ -~]{8,128}")


class Config(PluginConfig):
    """What a signature must cover, how old it may be, and how large the body it is about."""

    label: str | None = Field(default=None, pattern=r"^[a-z*][a-z0-9_\-.*]{0,63}$")
    """The label of the signature that counts; without one there must be exactly one signature."""
    components: list[str] = []
    """What must be signed besides method, authority, target and the body's digest, such as `content-type`."""
    tag: str | None = Field(default=None, pattern=r"^[ -~]{1,128}$")
    """What the parameter `tag` of the signature must say, so that one made for another purpose does not count."""
    max_age: Duration = Field(default=60.0, gt=0, le=3600)
    """How long ago a signature may have been made."""
    leeway: Duration = Field(default=5.0, ge=0, le=300)
    """How far the client's clock may be ahead of ours."""
    nonce: bool = True
    """Every signature has a `nonce` of at least 8 characters and counts once; that takes one trip to the store for each
    request. Without, whoever has seen a request can repeat it for `max_age`; so can he, once in each other process,
    when the store has lost what it knew."""
    max_body: Size = Field(default=2**20, ge=0, le=64 * 2**20)
    """The largest body; it is read whole and checked before any of it goes on. A larger one is refused (413)."""
    forward: bool = False
    """Leave the signature in the request that goes upstream."""
    realm: Realm = "tallygate"
    """What a refusal calls the protected area."""

    @field_validator("components")
    @classmethod
    def _components_are_names(cls, value: list[str]) -> list[str]:
        for name in value:
            check_component(name)
        return value


class HmacAuth(Authenticator[Config]):
    """Secrets are the `hmac_keys` of `consumers`. A signature must be recent, be used once, and cover the method, the
    authority, the target with its query, and `content-digest` (RFC 9530) where there is a body.

    To check a signature takes the secret itself: it is kept where the configuration takes it from, not as a hash.
    """

    def __init__(self, config: Config, services: Services) -> None:
        super().__init__(config, services)
        self.challenge = f'Signature realm="{config.realm}"'
        self._keys = services.consumers.hmac_keys
        self._nobody = os.urandom(32), None
        self._components = frozenset(config.components)
        size = services.metrics.gauge("tallygate_hmac_auth_nonces", "Nonces that this process remembers.")
        seen: Expiring[bool] = Expiring(_SEEN, services.clock.monotonic, GaugePart(size))
        self._nonces = Nonces(services.redis, seen)

    def inherit(self, previous: HmacAuth) -> None:
        self._nonces = previous._nonces

    async def start(self) -> None:
        self._nonces.seen.retain()

    async def stop(self) -> None:
        self._nonces.seen.release()

    def authenticate(self, exchange: Exchange) -> Consumer | Awaitable[Consumer] | None:
        headers = exchange.request.headers
        if "signature" not in headers and "signature-input" not in headers:
            return None
        try:
            signature = read_signature(headers, self.config.label)
            consumer = self._signer(exchange, signature)
            digests = read_digests(headers) if "content-digest" in signature.covered else {}
        except ValueError:  # whatever it was: the client is not told
            raise self.refusal() from None
        if not self.config.forward:
            del headers["signature"]
            del headers["signature-input"]
        if not self.config.nonce and not digests:
            return consumer
        return self._complete(exchange, signature, digests, consumer)

    def _signer(self, exchange: Exchange, signature: Signature) -> Consumer:
        """Whose signature it is. Raises ValueError for one that does not count."""
        request, config = exchange.request, self.config
        if signature.algorithm not in (None, ALGORITHM) or (config.tag is not None and signature.tag != config.tag):
            raise ValueError("made in another way, or for another purpose")
        now = exchange.admitted_at / 1e6
        if not now - config.max_age <= signature.created <= now + config.leeway:
            raise ValueError("too old, or of the future")
        if signature.expires is not None and signature.expires <= now:
            raise ValueError("expired")
        if config.nonce and not (signature.nonce and _NONCE.fullmatch(signature.nonce)):
            raise ValueError("no nonce")
        covered = signature.covered
        if not covers_request(signature, request) or not self._components <= covered:
            raise ValueError("covers too little")
        if request.body.length != 0 and "content-digest" not in covered:
            raise ValueError("does not cover the body")
        secret, consumer = self._keys.get(signature.key_id, self._nobody)
        expected = hmac.digest(secret, signed_text(signature, request), "sha256")
        if not hmac.compare_digest(expected, signature.value) or consumer is None:
            raise ValueError("not signed with this key")
        return consumer

    async def _complete(
        self, exchange: Exchange, signature: Signature, digests: dict[str, bytes], consumer: Consumer
    ) -> Consumer:
        """What takes time: whether it counts for the first time, and whether the body is the one that was signed."""
        body, config = exchange.request.body, self.config
        if body.length is not None and body.length > config.max_body:
            raise ContentTooLarge
        if config.nonce:
            keep = signature.created + config.max_age + config.leeway + _SPARE - exchange.admitted_at / 1e6
            if not await self._nonces.claim(signature.key_id, signature.nonce or "", keep):
                raise self.refusal()
        if digests and not holds(digests, await body.read(config.max_body)):
            raise self.refusal()
        return consumer
