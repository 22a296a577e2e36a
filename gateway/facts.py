"""Facts: what a condition may ask about: who calls, what is asked for, and when.

A fact that is not known is None, and stays apart from an empty one: what is said about it is neither true nor false.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, tzinfo
from difflib import get_close_matches
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gateway.exchange import Exchange
from gateway.http1.grammar import host_name
from gateway.path import normalized_path
from gateway.problem import BadRequest

if TYPE_CHECKING:
    from gateway.consumers import Consumer

Value: TypeAlias = str | int | float | frozenset[str]
Kind: TypeAlias = Literal["text", "number", "set", "address", "method", "date", "hour", "weekday", "any"]
"""What a fact is; methods, dates and days are text, hours are numbers. Of `any` the kind shows when it is read."""

WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_OF_THE_MACHINE: Final = frozenset({"Factory", "localtime", "posixrules"})
_NONE: Final[Mapping[str, Value]] = MappingProxyType({})


class Facts:
    """All that is known when something is decided. `micros` is the time, in microseconds since the epoch; `resource`
    are facts about what is to be touched, as the application says them.
    """

    __slots__ = ("client", "consumer", "host", "method", "micros", "parameters", "path", "resource")

    def __init__(
        self,
        consumer: Consumer | None = None,
        *,
        method: str | None = None,
        path: str | None = None,
        host: str | None = None,
        client: str | None = None,
        parameters: Mapping[str, str] = MappingProxyType({}),
        resource: Mapping[str, Value] = _NONE,
        micros: int | None = None,
    ) -> None:
        self.consumer = consumer
        self.method = method
        self.path = path
        self.host = host
        self.client = client
        self.parameters = parameters
        self.resource = resource
        self.micros = micros

    @classmethod
    def of(cls, exchange: Exchange) -> Facts:
        """What an exchange says; its path as routes read it."""
        request = exchange.request
        try:
            path = normalized_path(request.path)
        except BadRequest:
            path = None
        return cls(
            exchange.consumer,
            method=request.method,
            path=path,
            host=host_name(request.host) or None,
            client=request.client or None,
            parameters=exchange.parameters,
            micros=exchange.admitted_at,
        )


Read: TypeAlias = Callable[[Facts], Value | None]


class Fact(NamedTuple):
    """One thing that may be asked about."""

    kind: Kind
    read: Read


def _consumers(attribute: str) -> Read:
    """Text about the consumer. An empty one says nothing: no two callers are alike because both have no user."""
    return lambda facts: getattr(facts.consumer, attribute, None) or None


def _roles(facts: Facts) -> frozenset[str] | None:
    return facts.consumer.roles if facts.consumer is not None else None


def _scopes(facts: Facts) -> frozenset[str] | None:
    return facts.consumer.scopes if facts.consumer is not None else None


def _attribute(key: str) -> Fact:
    def read(facts: Facts) -> str | None:
        return facts.consumer.attributes.get(key) if facts.consumer is not None else None

    return Fact("text", read)


_FACTS: Final[Mapping[str, Fact]] = {
    "client": Fact("address", lambda facts: facts.client),
    "consumer": Fact("text", _consumers("name")),
    "host": Fact("text", lambda facts: facts.host),
    "key": Fact("text", _consumers("key")),
    "method": Fact("method", lambda facts: facts.method),
    "organization": Fact("text", _consumers("organization")),
    "path": Fact("text", lambda facts: facts.path),
    "roles": Fact("set", _roles),
    "scopes": Fact("set", _scopes),
    "user": Fact("text", _consumers("user")),
}
_TIMES: Final[Mapping[str, tuple[Kind, Callable[[datetime], Value]]]] = {
    "date": ("date", lambda now: now.date().isoformat()),
    "hour": ("hour", lambda now: now.hour),
    "weekday": ("weekday", lambda now: WEEKDAYS[now.weekday()]),
}
_NAMED: Final[Mapping[str, Callable[[str], Fact]]] = {
    "attribute": _attribute,
    "param": lambda key: Fact("text", lambda facts: facts.parameters.get(key)),
    "resource": lambda key: Fact("any", lambda facts: facts.resource.get(key)),
}
NAMES: Final = (*_FACTS, *_TIMES, *(f"{kind}.NAME" for kind in _NAMED))
"""`attribute` is of the consumer, `param` of the route's path, `resource` what an application says."""


def fact(name: str, zone: str | None = None) -> Fact:
    """The fact of this name; those about time in a time zone, UTC without one. Raises ValueError."""
    if name in _TIMES:
        kind, part = _TIMES[name]
        where = UTC if zone is None else _zone(zone)
        return Fact(kind, lambda facts: None if facts.micros is None else part(_at(facts.micros, where)))
    if zone is not None:
        raise ValueError(f"only {', '.join(_TIMES)} take a time zone, not {name}")
    if name in _FACTS:
        return _FACTS[name]
    kind_of_name, _, key = name.partition(".")
    if kind_of_name in _NAMED and key:
        return _NAMED[kind_of_name](key)
    close = get_close_matches(name, [*_FACTS, *_TIMES], n=1)
    hint = f'did you mean "{close[0]}"?' if close else f"there are {', '.join(NAMES)}"
    raise ValueError(f"unknown fact {name} ({hint})")


def _at(micros: int, zone: tzinfo) -> datetime:
    return datetime.fromtimestamp(micros // 1_000_000, zone)


def _zone(name: str) -> tzinfo:
    """Raises ValueError, also for what is another zone on another machine."""
    try:
        if name in _OF_THE_MACHINE:
            raise ValueError
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"unknown time zone {name!r} (write a name such as Europe/Berlin)") from None
