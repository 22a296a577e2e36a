"""Authentication: what all plugins that know a caller by a credential have in common.

Each looks for credentials of its own kind and leaves others alone, so that several can stand side by side: in `any_of`
the first whose kind is there decides. A refusal never says what was wrong.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Iterable
from typing import Annotated, ClassVar, TypeAlias, TypeVar

from pydantic import AfterValidator

from gateway.consumers import Consumer
from gateway.directory.claimed import Claimed
from gateway.exchange import Exchange, Response
from gateway.headers import Headers
from gateway.plugin import AUTHENTICATION, Plugin, PluginConfig
from gateway.problem import Unauthorized

C = TypeVar("C", bound=PluginConfig)


class NotOurs:
    """A credential of this kind, which another authenticator of the same kind may know. It was left where it is.

    `challenge` is what the refusal says if there is none.
    """

    __slots__ = ("_challenge",)

    def __init__(self, challenge: str) -> None:
        self._challenge = challenge

    def refusal(self) -> Unauthorized:
        """What is raised where nobody else knows it either."""
        return Unauthorized(headers={"www-authenticate": self._challenge})


Found: TypeAlias = Consumer | NotOurs | Awaitable[Consumer | None] | None


def _quotable(value: str) -> str:
    if not value.isascii() or not value.isprintable() or '"' in value or "\\" in value:
        raise ValueError(f"not a realm: {value!r} (plain ASCII without quotes and backslashes)")
    return value


Realm: TypeAlias = Annotated[str, AfterValidator(_quotable)]
"""What a refusal calls the protected area."""


def credentials_of(headers: Headers, scheme: str) -> str | None:
    """What Authorization says in this scheme, in lower case; None where it says nothing, or speaks in another.

    Raises ValueError for several such fields: two readers could take two different ones.
    """
    found = headers.getall("authorization")
    if not found:
        return None
    if len(found) > 1:
        raise ValueError("more than one field Authorization")
    said, _, credentials = found[0].partition(" ")
    return credentials.strip(" ") if said.lower() == scheme else None


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

    @abstractmethod
    def authenticate(self, exchange: Exchange) -> Found:
        """Who calls; None without a credential of this kind, NotOurs for one that others of this kind should judge.
        What it took is not to be forwarded, unless asked.

        Plain where it usually need not wait; an awaitable when it must. Raises Unauthorized for a credential of this
        kind that is not valid, and StoreDown or IssuerDown where nobody can tell now.
        """

    def on_request(self, exchange: Exchange) -> Response | Awaitable[Response | None] | None:
        found = self.authenticate(exchange)
        if type(found) is Claimed:
            found = self.services.directory.caller(found)
        if found is None or isinstance(found, Consumer):
            self._admit(exchange, found)
            return None
        if isinstance(found, NotOurs):
            raise found.refusal()
        return self._wait(exchange, found)

    async def _wait(self, exchange: Exchange, found: Awaitable[Consumer | None]) -> None:
        consumer = await found
        if isinstance(consumer, Claimed):
            known = self.services.directory.caller(consumer)
            consumer = await known if isinstance(known, Awaitable) else known
        self._admit(exchange, consumer)

    def _admit(self, exchange: Exchange, consumer: Consumer | None) -> None:
        if consumer is None:
            raise self.refusal()
        exchange.consumer = consumer
        exchange.request.identity = consumer.identity

    def refusal(self) -> Unauthorized:
        """What is raised for a missing credential and an invalid one alike."""
        return Unauthorized(headers={"www-authenticate": self.challenge})
