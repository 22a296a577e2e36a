"""Structured fields (RFC 9651), as far as signatures and digests need them: dictionaries of inner lists and of bytes.

What the RFC lets a reader overlook is refused here: a key that comes twice would be one thing to us and another to
somebody else. Dates, decimals and display strings are not read, because nothing here has one.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Final, NamedTuple, TypeAlias

_KEY: Final = re.compile(r"[a-z*][a-z0-9_\-.*]*")
_BARE: Final = re.compile(
    r'"(?P<string>(?:[ !#-\[\]-~]|\\["\\])*)"'
    r"|:(?P<bytes>[A-Za-z0-9+/]*={0,2}):"
    r"|(?P<integer>-?[0-9]{1,15})(?![0-9.])"
    r"|\?(?P<boolean>[01])"
    r"|(?P<token>[A-Za-z*][A-Za-z0-9!#$%&'*+\-.^_`|~:/]*)"
)
_SPACES: Final = re.compile(" *")
_COMMA: Final = re.compile("[ \t]*,[ \t]*(?=[^ \t])")
_ESCAPED: Final = re.compile(r'\\(["\\])')
_QUOTED: Final = re.compile(r'(["\\])')
_MOST: Final = 64
"""Members of a dictionary, of a list, and parameters of either."""


class Token(str):
    """A word without quotes."""

    __slots__ = ()


Bare: TypeAlias = str | int | bytes | bool | Token
Parameters: TypeAlias = Mapping[str, Bare]


class Item(NamedTuple):
    """A value and its parameters, in order."""

    value: Bare
    parameters: Parameters


class InnerList(NamedTuple):
    """Items in brackets, and the parameters of the whole."""

    items: tuple[Item, ...]
    parameters: Parameters


def read_dictionary(text: str) -> dict[str, Item | InnerList]:
    """The members of a dictionary, in order. Raises ValueError."""
    reader = _Reader(text.strip(" "))
    members: dict[str, Item | InnerList] = {}
    while not reader.over:
        if members:
            reader.expect(_COMMA)
        key = reader.expect(_KEY)[0]
        if key in members or len(members) == _MOST:
            raise ValueError("a key that comes twice, or too many")
        members[key] = reader.member() if reader.skip("=") else Item(True, reader.parameters())
    return members


class _Reader:
    """Reads from left to right; each method raises ValueError where something else stands."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    @property
    def over(self) -> bool:
        return self._at == len(self._text)

    def expect(self, pattern: re.Pattern[str]) -> re.Match[str]:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise ValueError("not a structured field")
        self._at = match.end()
        return match

    def skip(self, character: str) -> bool:
        found = self._text.startswith(character, self._at)
        self._at += found
        return found

    def member(self) -> Item | InnerList:
        return self._inner_list() if self.skip("(") else self._item()

    def _item(self) -> Item:
        return Item(self._bare(), self.parameters())

    def _inner_list(self) -> InnerList:
        items: list[Item] = []
        self.expect(_SPACES)
        while not self.skip(")"):
            if len(items) == _MOST or (items and self._text[self._at - 1] != " "):
                raise ValueError("too many items, or nothing between two of them")
            items.append(self._item())
            self.expect(_SPACES)
        return InnerList(tuple(items), self.parameters())

    def parameters(self) -> Parameters:
        found: dict[str, Bare] = {}
        while self.skip(";"):
            self.expect(_SPACES)
            key = self.expect(_KEY)[0]
            if key in found or len(found) == _MOST:
                raise ValueError("a parameter that comes twice, or too many")
            found[key] = self._bare() if self.skip("=") else True
        return found

    def _bare(self) -> Bare:
        match = self.expect(_BARE)
        match match.lastgroup:
            case "string":
                return _ESCAPED.sub(r"\1", match["string"])
            case "bytes":
                return _bytes(match["bytes"])
            case "integer":
                return int(match["integer"])
            case "boolean":
                return match["boolean"] == "1"
        return Token(match["token"])


def _bytes(text: str) -> bytes:
    value = b64decode(text, validate=True)
    if b64encode(value).decode() != text:
        raise ValueError("not base64 as it is written")
    return value


def write_item(item: Item) -> str:
    """As RFC 9651 §4.1.3 writes it: there is one way only."""
    return _written(item.value) + write_parameters(item.parameters)


def write_parameters(parameters: Parameters) -> str:
    """As RFC 9651 §4.1.1.2 writes them."""
    return "".join([f";{key}" if value is True else f";{key}={_written(value)}" for key, value in parameters.items()])


def _written(value: Bare) -> str:
    if type(value) is str:
        return '"' + _QUOTED.sub(r"\\\1", value) + '"'
    match value:
        case bool():
            return f"?{int(value)}"
        case bytes():
            return f":{b64encode(value).decode()}:"
    return str(value)  # a number, or a token
