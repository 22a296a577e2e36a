"""Conditions: what an expression about facts means, as closures that take a bounded time and never raise.

Logic is Kleene's, of three values: what depends on a fact that is not known is neither true nor false (None), and
neither is its negation. Whoever grants wants True; whoever denies, denies unless it is False. So a missing fact never
opens anything. Sides that cannot be compared are refused when the text is read.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from ipaddress import ip_network
from typing import Annotated, Any, Final, TypeAlias

from pydantic import AfterValidator

from gateway.expressions import Comparison, Joined, Literal, Name, Node, Not, parse_expression
from gateway.facts import WEEKDAYS, Facts, Kind, Read, Value, fact
from gateway.list_options import METHOD
from gateway.networks import Networks
from gateway.parameters import Speaks

Holds: TypeAlias = Callable[[Facts], bool | None]
Compared: TypeAlias = Callable[[Any, Any], bool | None]

_ORDER: Final[dict[str, Compared]] = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_COMPARED: Final[dict[str, Compared]] = {"==": operator.eq, "!=": operator.ne, **_ORDER}
_NUMBERS: Final = frozenset({"number", "hour", "any"})
_TEXTS: Final = frozenset({"text", "method", "date", "weekday", "any"})
_KIND_OF: Final[dict[type, Kind]] = {str: "text", int: "number", float: "number", frozenset: "set"}
_ANYWHERE: Final = Networks([ip_network("0.0.0.0/0"), ip_network("::/0")])


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition made ready: `holds(facts)` is True, False, or None where a fact is missing. It never raises."""

    node: Node
    holds: Holds = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "holds", _closure(self.node))

    def __str__(self) -> str:
        return str(self.node)


def parse_condition(text: str) -> Condition:
    """Read a condition. Raises ValueError with a sentence about what is wrong."""
    return Condition(parse_expression(text))


def _checked(text: str) -> str:
    parse_condition(text)
    return text


def _names(node: Node) -> Iterator[str]:
    """The facts that it asks about."""
    match node:
        case Comparison():
            yield from (side.name for side in _flat(node) if isinstance(side, Name))
        case Not(inner):
            yield from _names(inner)
        case Joined():
            yield from (name for part in node.parts for name in _names(part))


ConditionText: TypeAlias = Annotated[str, AfterValidator(_checked), Speaks(lambda text: _names(parse_expression(text)))]
"""An option: a condition."""


def _closure(node: Node) -> Holds:
    """Raises ValueError for a fact that there is not, and for sides that cannot be compared."""
    match node:
        case Comparison():
            return _comparison(node)
        case Not(inner):
            return _opposite(_closure(inner))
    # `or` is decided by the first part that is true, `and` by the first that is false.
    deciding = node.word == "or"
    parts = tuple(map(_closure, node.parts))

    def joined(facts: Facts) -> bool | None:
        result: bool | None = not deciding
        for part in parts:
            value = part(facts)
            if value is deciding:
                return deciding
            if value is None:
                result = None
        return result

    return joined


def _comparison(node: Comparison) -> Holds:
    if node.sign == "not in":
        return _opposite(_comparison(Comparison(node.left, "in", node.right)))
    left, read_left = _side(node.left)
    right, read_right = _side(node.right)
    _refuse_impossible(node, left, right)
    if left == "address":
        networks = _networks(node.right)
        return lambda facts: _lies_in(networks, facts.client)
    compare = _contained(_members(node.right)) if node.sign == "in" else _alike(_COMPARED[node.sign])

    def holds(facts: Facts) -> bool | None:
        one, other = read_left(facts), read_right(facts)
        return None if one is None or other is None else compare(one, other)

    return holds


def _opposite(holds: Holds) -> Holds:
    return lambda facts: None if (value := holds(facts)) is None else not value


def _side(side: Literal | Name | tuple[Literal, ...]) -> tuple[Kind, Read]:
    value: Value
    if isinstance(side, Name):
        return fact(side.name, side.zone)
    if isinstance(side, Literal):
        value = side.value
        return ("text" if isinstance(value, str) else "number"), lambda _: value
    members = frozenset(item.value for item in side)
    return "set", lambda _: members  # type: ignore[return-value]  # of text, or of numbers


def _refuse_impossible(node: Comparison, left: Kind, right: Kind) -> None:
    """Raises ValueError for sides that nothing can be said about, whatever the facts."""
    kinds = {left, right}
    literals = [side.value for side in _flat(node) if isinstance(side, Literal)]
    if node.sign == "in":
        if left == "set" or (right not in ("set", "any") and left != "address"):
            raise ValueError(f"`{node}`: `in` needs one thing before it, and a list in parentheses or a set behind it")
        kinds = {left, *(_KIND_OF[type(value)] for value in literals), _members(node.right)}
    elif kinds & {"set", "address"}:
        raise ValueError(f"`{node}`: a set or an address is asked with `in`")
    if left != "address" and not (kinds <= _NUMBERS or kinds <= _TEXTS):
        raise ValueError(f"`{node}` compares text with a number")
    _refuse_unheard_of(node, kinds, literals)
    if node.sign in _ORDER and not (
        kinds & {"number", "hour"} or ("date" in kinds and (literals or kinds == {"date"}))
    ):
        raise ValueError(f"`{node}`: only numbers and dates have an order")


def _refuse_unheard_of(node: Comparison, kinds: set[Kind], literals: list[Any]) -> None:
    """Raises ValueError for what no fact of this kind ever is."""
    if "weekday" in kinds and not set(literals) <= set(WEEKDAYS):
        raise ValueError(f"`{node}`: a day of the week is one of {', '.join(WEEKDAYS)}")
    if "date" in kinds and not all(map(_is_date, literals)):
        raise ValueError(f"`{node}`: a date is written as 2026-01-31")
    if "hour" in kinds and not all(_may_hold(node, value) for value in literals):
        raise ValueError(f"`{node}`: an hour is one of 0 to 23")
    for value in literals if "method" in kinds else ():
        if not METHOD.fullmatch(value):
            close = f'did you mean "{value.upper()}"?' if METHOD.fullmatch(value.upper()) else "write GET, POST, …"
            raise ValueError(f"`{node}`: a method is written in capital letters ({close})")


def _may_hold(node: Comparison, value: float) -> bool:
    """Whether there is an hour of which that can be said, or the opposite."""
    compare: Compared = _ORDER.get(node.sign, operator.eq)
    return any(compare(value, hour) if node.left == Literal(value) else compare(hour, value) for hour in range(24))


def _flat(node: Comparison) -> tuple[Literal | Name, ...]:
    return (node.left, *(node.right if isinstance(node.right, tuple) else (node.right,)))


def _is_date(value: object) -> bool:
    try:
        return date.fromisoformat(str(value)).isoformat() == value
    except ValueError:
        return False


def _networks(right: Literal | Name | tuple[Literal, ...]) -> Networks:
    """Raises ValueError for what is no network."""
    items = right if isinstance(right, tuple) else (right,)
    texts = [item.value for item in items if isinstance(item, Literal) and isinstance(item.value, str)]
    try:
        if len(texts) == len(items):
            return Networks(map(ip_network, texts))
    except ValueError:
        pass
    raise ValueError(f'{right} is no network (write client in "10.0.0.0/8", or several in parentheses)')


def _alike(compare: Compared) -> Compared:
    """Compares what is of one kind; about other sides nothing can be said."""

    def compared(one: Value, other: Value) -> bool | None:
        kind = _KIND_OF.get(type(one))
        return compare(one, other) if kind is not None and kind == _KIND_OF.get(type(other)) else None

    return compared


def _contained(members: Kind) -> Compared:
    """Whether a set has it, all of whose members are of one kind. About what is of another kind nothing can be said: it
    is no member, and yet may be meant as one (7 and "7"); nor of an empty set, lest the answer hang on that.
    """

    def compared(one: Value, other: Value) -> bool | None:
        return one in other if isinstance(other, frozenset) and _KIND_OF.get(type(one)) == members else None

    return compared


def _members(right: Literal | Name | tuple[Literal, ...]) -> Kind:
    """The kind of what a list or a set holds; the sets among facts hold text."""
    return _KIND_OF[type(right[0].value)] if isinstance(right, tuple) else "text"


def _lies_in(networks: Networks, address: str | None) -> bool | None:
    """None as well for what is no address: it would be in no network, and so outside of all."""
    if address is None or address not in _ANYWHERE:
        return None
    return address in networks
