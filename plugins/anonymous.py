"""Let in whoever shows no credential, as a consumer of its own."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from gateway.authentication import Authenticator
from gateway.consumers import Consumer, Name, Subscription
from gateway.exchange import Exchange
from gateway.expiring import Expiring
from gateway.metrics import GaugePart
from gateway.networks import subnet
from gateway.options import NAMES_ROLES
from gateway.permissions import PermissionText
from gateway.plugin import PluginConfig
from gateway.services import Services

ADDRESS: Final = "address"
"""The attribute that tells anonymous callers apart."""
_HOUR: Final = 3600.0


class Config(PluginConfig):
    """Who callers without a credential are, and what they may do."""

    name: Name = "anonymous"
    """Their name in logs, usage records and towards the upstream."""
    organization: Name
    """Who pays for them."""
    subscription: Subscription = ""
    """The subscription that their usage is booked on."""
    roles: Annotated[list[Name], NAMES_ROLES] = []
    """Their roles: names of the section `roles`."""
    permissions: list[PermissionText] = []
    """What they may do beyond their roles, such as `books:read`, or with a leading `!` may not."""
    max_addresses: int = Field(default=4096, ge=1, le=1_000_000)
    """Addresses that are remembered; beyond that, the one that called the longest ago is forgotten, and made anew."""


class Anonymous(Authenticator[Config]):
    """They share one name, and have the attribute `address`, so that a limit can tell them apart: the client's IPv4
    address, or the /64 network of its IPv6 address, which is what one customer is usually given.

    A request with a field Authorization is not one without a credential, whether or not anybody here can read it: it
    is refused, so that nobody is taken for a stranger because of a slip in a key. List it last, in `any_of`.
    """

    lets_anybody_in = True

    @classmethod
    def in_authorization(cls, config: Config) -> str:
        return ""

    challenge = "Anonymous"

    def __init__(self, config: Config, services: Services) -> None:
        super().__init__(config, services)
        gauge = services.metrics.gauge("tallygate_anonymous_addresses", "Addresses of anonymous callers remembered.")
        now = services.clock.monotonic
        self._known: Expiring[Consumer] = Expiring(config.max_addresses, now, GaugePart(gauge))
        self._anybody = Consumer(
            config.name,
            config.organization,
            config.subscription,
            roles=frozenset(config.roles),
            permissions=(*services.consumers.permissions_of(config.roles), *config.permissions),
        )

    def inherit(self, previous: Anonymous) -> None:
        if previous._anybody.permissions == self._anybody.permissions:  # roles may say something else by now
            self._known = previous._known

    async def start(self) -> None:
        self._known.retain()

    async def stop(self) -> None:
        self._known.release()

    def authenticate(self, exchange: Exchange) -> Consumer | None:
        request = exchange.request
        if "authorization" in request.headers:
            return None
        client = request.client
        consumer = self._known.get(client)
        if consumer is None:
            consumer = self._anybody.having({ADDRESS: subnet(client)})
            self._known.put(client, consumer, _HOUR)
        return consumer
