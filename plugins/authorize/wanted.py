"""Wanted: the permission that a request needs, from a template such as `books/{param.id}:{action}`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from gateway.exchange import Exchange
from gateway.permissions import VALUE, check_wanted
from gateway.template import compiled

Read: TypeAlias = Callable[[Exchange], str | None]

METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
"""Those for which what is wanted is remembered."""
_BY_METHOD: Final = frozenset({"action", "method"})
_OF_CONSUMER: Final[Mapping[str, Read]] = {
    "consumer": lambda exchange: exchange.consumer.name,
    "organization": lambda exchange: exchange.consumer.organization,
    "user": lambda exchange: exchange.consumer.user,
}
_SOURCES: Final[Mapping[str, str]] = {"consumer": "a caller", "organization": "an organization", "user": "a user"}
NAMES: Final = (*sorted(_BY_METHOD), *_OF_CONSUMER, "param.NAME")


class Wanted:
    """A template made ready; `actions` is what each method (in capitals) does.

    Raises ValueError for a name that there is not, and for text that is never a permission.
    """

    __slots__ = ("_actions", "_form", "_names", "_readers", "known", "text")

    def __init__(self, text: str, actions: Mapping[str, str]) -> None:
        self._form, names = compiled(text, str)
        check_wanted(self._form % tuple("x" for _ in names))
        self._actions = actions
        self._names = names
        self._readers = [self._reader(name) for name in names]
        self.text = text
        self.known: dict[str, str] | None = {} if _BY_METHOD.issuperset(names) else None
        """What was wanted before, by method; None where it depends on more than that."""

    def of(self, exchange: Exchange) -> str | None:
        """What this request, whose consumer is known, needs; None if no permission can say it: a method without an
        action, or a value that is not one segment of a permission, such as `a/b`.
        """
        method = exchange.request.method
        if self.known is not None and method in self.known:
            return self.known[method]
        values: list[str] = []
        for read in self._readers:
            value = read(exchange)
            if value is None or not VALUE.fullmatch(value):
                return None
            values.append(value)
        wanted = self._form % tuple(values)
        if self.known is not None and method in METHODS:
            self.known[method] = wanted
        return wanted

    def unsayable(self, exchange: Exchange) -> str:
        """What a request that no permission can say would need instead, in words for its caller. They are the same
        whatever it brought, so that nobody fills the audit log with words of his own.
        """
        brought = zip(self._names, self._readers, strict=True)
        name = next(name for name, read in brought if (value := read(exchange)) is None or not VALUE.fullmatch(value))
        return "another method" if name in _BY_METHOD else f"{_SOURCES.get(name, 'a path')} that a permission can name"

    def said(self, exchange: Exchange) -> str:
        """The same for people: names stand in braces where nobody calls, or where no permission can say it."""
        if exchange.consumer is not None or _OF_CONSUMER.keys().isdisjoint(self._names):
            return self.of(exchange) or self.text
        brought = zip(self._names, self._readers, strict=True)
        return self._form % tuple(
            (None if name in _OF_CONSUMER else read(exchange)) or f"{{{name}}}" for name, read in brought
        )

    def _reader(self, name: str) -> Read:
        if name == "method":
            return lambda exchange: exchange.request.method.lower()
        if name == "action":
            return lambda exchange: self._actions.get(exchange.request.method.upper())
        if name in _OF_CONSUMER:
            return _OF_CONSUMER[name]
        kind, _, key = name.partition(".")
        if kind == "param" and key:
            return lambda exchange: exchange.parameters.get(key)
        raise ValueError(f"unknown name {{{name}}} (there are {', '.join(NAMES)})")
