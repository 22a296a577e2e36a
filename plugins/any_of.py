"""Know the consumer by whichever of several credentials a request has."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

from gateway.authentication import WHO, Authenticator, Found, NotOurs, Who
from gateway.exchange import Exchange
from gateway.headers import Headers
from gateway.options import PluginList
from gateway.plugin import PartSpec, PluginConfig
from gateway.problem import Unauthorized
from gateway.services import Services


class Config(PluginConfig):
    """The ways in, in the order in which they are tried."""

    plugins: PluginList
    """Authenticators, each with its options as it would have them on its own."""


class AnyOf(Authenticator[Config]):
    """The first authenticator in the list that finds a credential of its kind decides, and no other one is asked: what
    is not valid is refused, and never taken for no credential at all. Without any, all of them say what they want.
    Several `jwt_auth` stand side by side: each leaves tokens of other issuers for the others.

    So the order matters only to requests with several credentials. `introspection`, which takes any bearer token,
    stands behind `jwt_auth`, and `anonymous` at the end.
    """

    parts: tuple[Authenticator[Any], ...]  # refuses_part sees to it

    @classmethod
    def refuses_part(cls, part: PartSpec, before: Sequence[PartSpec]) -> str | None:
        plugin, config = part
        if issubclass(plugin, AnyOf):
            return "any_of inside any_of says no more than one list does: list these plugins in the outer one"
        if not issubclass(plugin, Authenticator):
            return "does not say who calls: any_of takes authenticators"
        if plugin.on_request is not Authenticator.on_request or plugin.hooks(config) != ["on_request"]:
            return "does more than say who calls: it has to stand on its own"
        if any(other.lets_anybody_in for other, _ in before):
            return "stands behind one that lets anybody in, which belongs at the end: list it before"
        if plugin.bearers(config) != "none" and any(_takes_all_bearers(other) for other in before):
            return "stands behind one that decides about all bearer tokens, and hears of none: list it before"
        return None

    def __init__(self, config: Config, services: Services) -> None:
        super().__init__(config, services)
        self._pretended: frozenset[str] = frozenset()
        self._strip = self._without_pretended  # bound once: `Headers.once` knows it again

    async def start(self) -> None:
        self._pretended = frozenset().union(*(part.disbelieved for part in self.parts))

    def _without_pretended(self, headers: Headers) -> None:
        for name, _ in headers.pick(self._pretended):
            del headers[name]

    def authenticate(self, exchange: Exchange) -> Found:
        if self._pretended:
            exchange.request.headers.once(self._strip)
        return self._ask(exchange, 0)

    def _ask(self, exchange: Exchange, first: int, left: NotOurs | None = None) -> Found:
        """What the first authenticator says that has something to say, from that place on.

        `left` is a credential that one before has left for the others: with it nobody goes for one who has none.
        """
        for place, part in enumerate(self.parts[first:], first):
            if left is not None and part.lets_anybody_in:
                continue
            found = part.authenticate(exchange)
            if isinstance(found, WHO):
                return found
            if isinstance(found, NotOurs):
                left = left or found
            elif found is not None:
                return self._wait_for(exchange, found, place, left)
        return left

    async def _wait_for(
        self, exchange: Exchange, found: Awaitable[Who | None], place: int, left: NotOurs | None
    ) -> Who | None:
        who = await found
        if who is not None:
            return who
        following = self._ask(exchange, place + 1, left)
        if isinstance(following, NotOurs):
            raise following.refusal(exchange)
        return following if following is None or isinstance(following, WHO) else await following

    def refusal(self) -> Unauthorized:
        challenges = [part.challenge for part in self.parts if not part.lets_anybody_in]
        # Each in a field of its own (RFC 9110 §11.6.1): clients are bad at telling several in one apart.
        return Unauthorized(headers={"www-authenticate": challenges})


def _takes_all_bearers(part: PartSpec) -> bool:
    plugin, config = part
    return issubclass(plugin, Authenticator) and plugin.bearers(config) == "all"
