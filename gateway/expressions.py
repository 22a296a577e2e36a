"""Expressions: the text of a condition, such as `param.owner == user and hour("Europe/Berlin") < 18`, as a tree.

    either     = both { "or" both }
    both       = negation { "and" negation }
    negation   = "not" negation | "(" either ")" | comparison
    comparison = operand sign operand | operand ["not"] "in" ( operand | "(" literal { "," literal } ")" )
    operand    = fact | fact "(" time zone ")" | literal

There are no loops, no patterns and nothing that could be called, and length and depth are bounded. Written out again, a
tree reads as the same tree. What it means is in `conditions.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, TypeAlias

LONGEST: Final = 500
"""Characters of an expression."""
DEEPEST: Final = 16
"""Parentheses and `not` inside one another."""
SIGNS: Final = frozenset({"==", "!=", "<", "<=", ">", ">="})

_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<text>"[^"]*"|'[^']*')|(?P<number>\d{1,15}(?:\.\d{1,4})?)|(?P<word>[A-Za-z_][A-Za-z0-9_.-]*)"""
    r"""|(?P<sign>==|!=|<=|>=|[<>(),]))""",
    re.ASCII,
)
_RESERVED: Final = SIGNS | {"(", ")", ",", "and", "or", "not", "in"}


@dataclass(frozen=True, slots=True)
class Literal:
    """Text or a number."""

    value: str | int | float

    def __str__(self) -> str:
        if isinstance(self.value, str):
            return f"'{self.value}'" if '"' in self.value else f'"{self.value}"'
        return f"{self.value}"


@dataclass(frozen=True, slots=True)
class Name:
    """A fact, in a time zone where it is about time."""

    name: str
    zone: str | None = None

    def __str__(self) -> str:
        return self.name if self.zone is None else f'{self.name}("{self.zone}")'


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sides and what is between them; only `in` takes a list."""

    left: Literal | Name
    sign: str
    right: Literal | Name | tuple[Literal, ...]

    def __str__(self) -> str:
        right = f"({', '.join(map(str, self.right))})" if isinstance(self.right, tuple) else self.right
        return f"{self.left} {self.sign} {right}"


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite."""

    inner: Node

    def __str__(self) -> str:
        return f"not {_inside(self.inner)}"


@dataclass(frozen=True, slots=True)
class Joined:
    """Two parts or more, joined by `and` or by `or`."""

    word: str
    parts: tuple[Node, ...]

    def __str__(self) -> str:
        return f" {self.word} ".join(map(_inside, self.parts))


Node: TypeAlias = Comparison | Not | Joined


def _inside(node: Node) -> str:
    return f"({node})" if isinstance(node, Joined) else str(node)


def parse_expression(text: str) -> Node:
    """Read an expression. Raises ValueError with a sentence about what is wrong."""
    if len(text) > LONGEST:
        raise ValueError(f"a condition has at most {LONGEST} characters, not {len(text)}")
    return _Parser(_tokens(text)).whole()


class _Parser:
    """Recursive descent, one method for each rule: or, and, not, comparison, operand."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._place = 0
        self._depth = 0

    def whole(self) -> Node:
        node = self._joined("or")
        if self._next is not None:
            raise ValueError(f"{self._next!r} does not fit here (`and`, `or` or the end should follow)")
        return node

    @property
    def _next(self) -> str | None:
        return self._tokens[self._place] if self._place < len(self._tokens) else None

    def _take(self, *wanted: str) -> bool:
        if self._tokens[self._place : self._place + len(wanted)] != list(wanted):
            return False
        self._place += len(wanted)
        return True

    def _need(self, token: str) -> None:
        if not self._take(token):
            raise ValueError(f"{self._next or 'the end'!r} stands where {token!r} should")

    def _joined(self, word: str) -> Node:
        parts = [self._part(word)]
        while self._take(word):
            parts.append(self._part(word))
        return Joined(word, tuple(parts)) if len(parts) > 1 else parts[0]

    def _part(self, word: str) -> Node:
        return self._joined("and") if word == "or" else self._negation()

    def _negation(self) -> Node:
        self._depth += 1
        if self._depth > DEEPEST:
            raise ValueError(f"parentheses and `not` stand at most {DEEPEST} deep")
        node: Node
        if self._take("not"):
            node = Not(self._negation())
        elif self._take("("):
            node = self._joined("or")
            self._need(")")
        else:
            node = self._comparison()
        self._depth -= 1
        return node

    def _comparison(self) -> Comparison:
        left = self._operand()
        sign = self._next or "the end"
        right: Literal | Name | tuple[Literal, ...]
        if self._take("not", "in") or self._take("in"):
            sign = "in" if sign == "in" else "not in"
            right = self._list() if self._take("(") else self._operand()
        elif sign in SIGNS:
            self._place += 1
            right = self._operand()
        else:
            raise ValueError(f"{sign!r} stands where one of ==, !=, <, <=, >, >=, in, not in should")
        return Comparison(left, sign, right)

    def _list(self) -> tuple[Literal, ...]:
        items = [self._operand()]
        while self._take(","):
            items.append(self._operand())
        self._need(")")
        literals = [item for item in items if isinstance(item, Literal)]
        if len(literals) < len(items):
            raise ValueError('a list holds text and numbers alone, such as ("a", "b")')
        return tuple(literals)

    def _operand(self) -> Literal | Name:
        token = self._next
        if token is None or token in _RESERVED:
            raise ValueError(f"{token or 'the end'!r} stands where a fact, text in quotes or a number should")
        self._place += 1
        if token[0] in "\"'":
            return Literal(token[1:-1])
        if token[0].isdigit():
            return Literal(float(token) if "." in token else int(token))
        if not self._take("("):
            return Name(token)
        zone = self._operand()
        self._need(")")
        if not isinstance(zone, Literal) or not isinstance(zone.value, str):
            raise ValueError(f'{token} takes a time zone in quotes, such as {token}("Europe/Berlin")')
        return Name(token, zone.value)


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    place = 0
    text = text.rstrip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None or not match[0].strip().isprintable():
            raise ValueError(f"{text[place:].strip()[:20]!r} cannot be read")
        tokens.append(match[0].strip())
        place = match.end()
    return tokens
