"""Authentication: what all plugins that know a caller by a credential have in common.

Each looks for credentials of its own kind and leaves others alone, so that several can stand side by side: in `any_of`
the first whose kind is there decides. A refusal never says what was wrong; of tokens the access log and a metric do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, TypeAlias, TypeVar

from pydantic import AfterValidator

from gateway.consumers import Consumer
from gateway.credentials import Reason
from gateway.directory.claimed import Claimed
from gateway.exchange import Exchange, Response
from gateway.plugin import AUTHENTICATION, Plugin, PluginConfig
from gateway.problem import Unauthorized

if TYPE_CHECKING:
    from gateway.services import Services

C = TypeVar("C", bound=PluginConfig)


class NotOurs:
    """A credential of this kind, which another authenticator of the same kind may know. It was left where it is.

    `reason` is why, of a token.
    """

    __slots__ = ("_left_by", "_reason")

    def __init__(self, left_by: Authenticator[Any], reason: Reason | None = None) -> None:
        self._left_by = left_by
        self._reason = reason

    def refusal(self, exchange: Exchange) -> Unauthorized:
        """What is raised where nobody else knows it either."""
        if self._reason is None:
            return self._left_by.refusal()
        return self._left_by.refused_token(exchange, self._reason)


Who: TypeAlias = Consumer | Claimed
WHO: Final = (Consumer, Claimed)
Found: TypeAlias = Who | NotOurs | Awaitable[Who | None] | None


def _quotable(value: str) -> str:
    if not value.isascii() or not value.isprintable() or '"' in value or "\\" in value:
        raise ValueError(f"not a realm: {value!r} (plain ASCII without quotes and backslashes)")
    return value


Realm: TypeAlias = Annotated[str, AfterValidator(_quotable)]
"""What a refusal calls the protected area."""


def insufficient_scope(exchange: Exchange, scopes: Iterable[str]) -> dict[str, str]:
    """The field that asks for a token with these scopes (RFC 6750 §3.1); none where no token has said who calls."""
    if not exchange.challenge:
        return {}
    return {"www-authenticate": f'{exchange.challenge}, error="insufficient_scope", scope="{" ".join(scopes)}"'}


class Authenticator(Plugin[C], ABC):
    """A plugin that says who calls. Override `authenticate`, and set `challenge` when you are made."""

    guards: ClassVar[str] = AUTHENTICATION
    disbelieved: ClassVar[frozenset[str]] = frozenset()
    """Fields that say what it alone can find out: they are taken out of requests, whichever authenticator decides."""
    challenge: str = ""
    """What a refusal asks for, in the field WWW-Authenticate (RFC 9110 §11.6.1)."""

    @classmethod
    def bearers(cls, config: C) -> Literal["none", "some", "all"]:
        """Of which bearer tokens (RFC 6750) it says whose they are; others it leaves for those behind it in `any_of`.

        API keys do not count: by their prefix everybody knows whom they are for.
        """
        return "none"

    @classmethod
    def in_authorization(cls, config: C) -> str | None:
        """The scheme in which Authorization must say its credential; nothing where that field must not be there, and
        None where it makes no difference. Of several in a row, where each must find its own, some cannot.
        """
        return None

    def __init__(self, config: C, services: Services) -> None:
        super().__init__(config, services)
        self._refused = services.metrics.counter(
            "tallygate_tokens_refused_total",
            "Tokens that were refused, by the reason, which callers are not told.",
            ("reason",),
        )

    @abstractmethod
    def authenticate(self, exchange: Exchange) -> Found:
        """Who calls; None without a credential of this kind, NotOurs for one that others of this kind should judge.
        What it took is not to be forwarded, unless asked.

        Plain where it usually need not wait; an awaitable when it must. Raises Unauthorized for a credential of this
        kind that is not valid, and StoreDown or IssuerDown where nobody can tell now.
        """

    def on_request(self, exchange: Exchange) -> Response | Awaitable[Response | None] | None:
        found = self.authenticate(exchange)
        if found is None or isinstance(found, WHO):
            return self._decide(exchange, found)
        if isinstance(found, NotOurs):
            raise found.refusal(exchange)
        return self._wait(exchange, found)

    async def _wait(self, exchange: Exchange, found: Awaitable[Who | None]) -> None:
        asking = self._decide(exchange, await found)
        if asking is not None:
            await asking

    def _decide(self, exchange: Exchange, found: Who | None) -> Awaitable[None] | None:
        """Lets in who was found. Of who is only claimed the organization is asked first, which may take a while."""
        caller = self.services.directory.caller(found) if isinstance(found, Claimed) else found
        if caller is None:
            raise self.refusal() if found is None else self.refused_token(exchange, "organization")
        if not isinstance(caller, Consumer):
            return self._decide_later(exchange, caller)
        exchange.consumer = caller
        exchange.request.identity = caller.identity
        return None

    async def _decide_later(self, exchange: Exchange, finding: Awaitable[Consumer | None]) -> None:
        caller = await finding
        if caller is None:
            raise self.refused_token(exchange, "organization")
        _ = self._decide(exchange, caller)

    def refusal(self) -> Unauthorized:
        """What is raised for a missing credential and an invalid one alike."""
        return Unauthorized(headers={"www-authenticate": self.challenge})

    def refused_token(self, exchange: Exchange, reason: Reason) -> Unauthorized:
        """What is raised for a token that is not valid (RFC 6750 §3.1). Only the operator learns the reason."""
        self._refused.labels(reason).inc()
        exchange.refused = f"token refused: {reason}"
        challenge = exchange.challenge or self.challenge
        return Unauthorized(headers={"www-authenticate": f'{challenge}, error="invalid_token"'})
