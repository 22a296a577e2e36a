"""Permissions: what somebody may do, as text such as `books:read`, `books/*:*` or `!books:delete if hour < 6`.

`resource:action`; both are segments joined with `/`. `*` stands for one segment, at the end of a side for one or more;
`*` alone is `*:*`. A leading `!` denies, and a denial wins over any grant. What follows ` if ` must hold
(`conditions.py`). Text that cannot be read grants nothing; if it may have been meant to deny, it denies everything.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Final, NamedTuple, TypeAlias, TypeVar

from pydantic import AfterValidator

from gateway.conditions import Condition, parse_condition
from gateway.facts import Facts

MOST_REMEMBERED: Final = 128
"""Decisions that are remembered of the same permissions; when there are so many, all are forgotten."""
LONGEST_WANTED: Final = 256
"""Characters of what may be wanted."""

_SEGMENT: Final = r"(?:\*|[a-z0-9_.-]{1,64})"
_SIDE: Final = rf"{_SEGMENT}(?:/{_SEGMENT}){{0,7}}"
_PERMISSION: Final = re.compile(rf"(!?)(?:({_SIDE}):({_SIDE})|\*)")
_GRANTS: Final = re.compile(r"[A-Za-z0-9_.*-]|$")
VALUE: Final = re.compile(r"(?!\.\.?(?:[/:]|$))[A-Za-z0-9_.~@+-]{1,128}")
"""A segment of what is wanted. It may come from a request, hence the capitals; no grant but a wildcard has them. It is
never `.` or `..`, which lead elsewhere where such text becomes a path."""
_WANTED: Final = re.compile(rf"{VALUE.pattern}(?:/{VALUE.pattern}){{0,7}}:{VALUE.pattern}(?:/{VALUE.pattern}){{0,7}}")
_ANYTHING: Final = ("*",)
_NOTHING_KNOWN: Final = Facts()

Remembered = TypeVar("Remembered")

log: Final = logging.getLogger(__name__)


class Decision(NamedTuple):
    """Whether what was wanted is allowed, and why. `denied`: something forbids it, rather than that nothing grants it.

    `because` is for logs and for the caller whose permissions they are.
    """

    wanted: str
    allowed: bool
    because: str
    denied: bool = False


@dataclass(frozen=True, slots=True)
class Permission:
    """One permission, as segments."""

    resource: tuple[str, ...]
    action: tuple[str, ...]
    denies: bool = False
    condition: Condition | None = None
    _text: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        text = f"{'!' * self.denies}{'/'.join(self.resource)}:{'/'.join(self.action)}"
        object.__setattr__(self, "_text", text if self.condition is None else f"{text} if {self.condition}")

    def __str__(self) -> str:
        return self._text

    def decides(self, wanted: str) -> Decision:
        """What it says of what it is about, if its condition lets it."""
        said = "denies" if self.denies else "grants"
        return Decision(wanted, not self.denies, f"{self._text} {said} it", self.denies)

    def covers(self, resource: Sequence[str], action: Sequence[str]) -> bool:
        """Whether it is about this, whatever its condition."""
        return _covers(self.resource, resource) and _covers(self.action, action)


def _covers(pattern: Sequence[str], wanted: Sequence[str]) -> bool:
    if pattern == _ANYTHING:
        return True
    if len(wanted) != len(pattern) and not (pattern[-1] == "*" and len(wanted) > len(pattern)):
        return False
    return all(mine in ("*", theirs) for mine, theirs in zip(pattern, wanted, strict=False))


def parse(text: str) -> Permission:
    """Read a permission. Raises ValueError with a sentence about what is wrong."""
    about, separator, condition = text.partition(" if ")
    match = _PERMISSION.fullmatch(about)
    if match is None:
        raise ValueError(
            f"not a permission: {about[:80]!r} (write resource:action in small letters, such as books:read, books/*:* "
            "or !books:delete, and a condition behind ` if `)"
        )
    resource, action = (match[2] or "*").split("/"), (match[3] or "*").split("/")
    holds = parse_condition(condition) if separator else None
    return Permission(tuple(resource), tuple(action), bool(match[1]), holds)


def check_wanted(text: str) -> None:
    """Raises ValueError for what nobody can want: `resource:action`, without wildcards and conditions, is needed."""
    if not _is_wanted(text):
        raise ValueError(f"not one permission: {text[:80]!r} (write resource:action without `*`, such as books:read)")


def _is_wanted(text: str) -> bool:
    return len(text) <= LONGEST_WANTED and _WANTED.fullmatch(text) is not None


def _checked(text: str) -> str:
    parse(text)
    return text


PermissionText: TypeAlias = Annotated[str, AfterValidator(_checked)]
"""An option: a permission."""


class _Ruling(NamedTuple):
    """What is to be said about something wanted: the first of `asked` whose condition decides, or else `otherwise`."""

    asked: tuple[tuple[Condition, Permission], ...]
    otherwise: Decision


class Grants:
    """Permissions made ready to decide. `settled` are decisions that hold whatever the facts; `unreadable` is the text
    that could not be read. Equal permissions share one of these, for as long as 1,024 others were not used since.
    """

    __slots__ = ("_allowing", "_denying", "_rulings", "settled", "unreadable")

    def __init__(self, texts: Sequence[str]) -> None:
        read = [(text, _readable(text)) for text in texts]
        self.unreadable = tuple(text for text, permission in read if permission is None)
        permissions = [permission for _, permission in read if permission is not None]
        if any(map(may_deny, self.unreadable)):
            permissions.append(Permission(_ANYTHING, _ANYTHING, denies=True))
        self._allowing = _Found(permission for permission in permissions if not permission.denies)
        self._denying = _Found(permission for permission in permissions if permission.denies)
        self.settled: dict[str, Decision] = {}
        self._rulings: dict[str, _Ruling] = {}

    @staticmethod
    @lru_cache(maxsize=1024)
    def of(texts: tuple[str, ...]) -> Grants:
        """Those of these permissions, made once."""
        return Grants(texts)

    def decide(self, wanted: str, facts: Facts = _NOTHING_KNOWN) -> Decision:
        """Whether this is allowed. Raises nothing, whatever is wanted."""
        settled = self.settled.get(wanted)
        if settled is not None:
            return settled
        ruling = self._rulings.get(wanted)
        if ruling is None:
            if not _is_wanted(wanted):
                return Decision(wanted, False, "it is not a permission")
            ruling = self._rule(wanted)
            if not ruling.asked:
                return _remember(self.settled, wanted, ruling.otherwise)
            _remember(self._rulings, wanted, ruling)
        for condition, permission in ruling.asked:
            holds = condition.holds(facts)
            if holds or (holds is None and permission.denies):
                return permission.decides(wanted)
        return ruling.otherwise

    def _rule(self, wanted: str) -> _Ruling:
        # Upstreams may not tell capitals from small letters; nobody escapes a denial by that.
        denying, allowing = self._denying.about(wanted.lower()), self._allowing.about(wanted)
        asked: list[tuple[Condition, Permission]] = []
        for permission in (*denying, *allowing):
            if permission.condition is None:
                return _Ruling(tuple(asked), permission.decides(wanted))
            asked.append((permission.condition, permission))
        missing = "no condition of what grants it holds" if allowing else "nothing grants it"
        return _Ruling(tuple(asked), Decision(wanted, False, missing))


class _Found:
    """Permissions, found by the first segment of their resource: an organization may have hundreds."""

    __slots__ = ("_anywhere", "_by_first")

    def __init__(self, permissions: Iterable[Permission]) -> None:
        self._anywhere: list[Permission] = []
        self._by_first: dict[str, list[Permission]] = {}
        for each in permissions:
            first = each.resource[0]
            (self._anywhere if first == "*" else self._by_first.setdefault(first, [])).append(each)

    def about(self, wanted: str) -> list[Permission]:
        """Those that cover it, unconditional ones first."""
        resource, _, action = wanted.partition(":")
        sides = resource.split("/"), action.split("/")
        near = *self._anywhere, *self._by_first.get(sides[0][0], ())
        return sorted((each for each in near if each.covers(*sides)), key=lambda each: each.condition is not None)


def may_deny(text: str) -> bool:
    """Whether text that cannot be read may have been meant to deny: what does not begin as a grant could begins with
    something that nobody knows.
    """
    return _GRANTS.match(text) is None


def _remember(memory: dict[str, Remembered], key: str, value: Remembered) -> Remembered:
    if len(memory) >= MOST_REMEMBERED:
        memory.clear()
    memory[key] = value
    return value


@lru_cache(maxsize=4096)
def _readable(text: str) -> Permission | None:
    """The permission, or None for text that is none; that is logged when it is seen first."""
    try:
        return parse(text)
    except ValueError as error:
        log.warning("a permission cannot be read and grants nothing: %r: %s", text[:80], error)
        return None
