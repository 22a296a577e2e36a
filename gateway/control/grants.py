"""Grants: what permissions of the API's own callers allow, and what is left of a role's permissions under a key's."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

_SEGMENT: Final = r"(?:[a-z0-9_.-]+|\*)"
_SIDE: Final = rf"{_SEGMENT}(?:/{_SEGMENT})*"
_PERMISSION: Final = re.compile(rf"(!?)(?:({_SIDE}):({_SIDE})|\*)(?: if (\S(?:.*\S)?))?")


class Permission(NamedTuple):
    """A permission, read: the segments of its resource and its action; `*` is any one, at the end one or more."""

    denies: bool
    resource: tuple[str, ...]
    action: tuple[str, ...]
    condition: str

    def __str__(self) -> str:
        text = ("!" if self.denies else "") + "/".join(self.resource) + ":" + "/".join(self.action)
        return f"{text} if {self.condition}" if self.condition else text


def parse(text: str) -> Permission:
    """`resource:action`, with `!` before it or ` if …` behind. Raises ValueError for anything else."""
    match = _PERMISSION.fullmatch(text)
    if match is None or not text.isascii():
        raise ValueError(f"not a permission: {text!r} (write books:read, books:* or !books:delete)")
    denies, resource, action, condition = match.groups()
    return Permission(
        bool(denies), tuple((resource or "*").split("/")), tuple((action or "*").split("/")), condition or ""
    )


def allows(permissions: Iterable[str], wanted: str) -> bool:
    """Whether these permissions allow `wanted`. One that denies it wins; a condition is never met here."""
    asked = parse(wanted)
    allowed = False
    for text in permissions:
        try:
            permission = parse(text)
        except ValueError:
            if text.startswith("!"):
                return False  # what was to be denied cannot be known
            continue
        if _covers(permission, asked):
            if permission.denies:
                return False
            allowed = allowed or not permission.condition
    return allowed


def narrowed(granted: Iterable[str], most: Iterable[str] | None) -> tuple[str, ...]:
    """What is left of `granted` where no more than `most` may be done; None leaves all of it.

    What either denies stays denied. What both allow is the narrower of the two, under the conditions of both.
    """
    if most is None:
        return tuple(dict.fromkeys(granted))
    ours, theirs = [parse(text) for text in granted], [parse(text) for text in most]
    denied = [permission for permission in (*ours, *theirs) if permission.denies]
    both = [
        met
        for one in ours
        for other in theirs
        if not one.denies and not other.denies and (met := _meeting(one, other)) is not None
    ]
    return tuple(dict.fromkeys(str(permission) for permission in (*both, *denied)))


def _covers(wide: Permission, narrow: Permission) -> bool:
    return _side_covers(wide.resource, narrow.resource) and _side_covers(wide.action, narrow.action)


def _side_covers(wide: tuple[str, ...], narrow: tuple[str, ...]) -> bool:
    if len(wide) != len(narrow) and not (wide[-1] == "*" and len(narrow) > len(wide)):
        return False
    return all(one in ("*", other) for one, other in zip(wide, narrow, strict=False))


def _meeting(one: Permission, other: Permission) -> Permission | None:
    resource, action = _side_meeting(one.resource, other.resource), _side_meeting(one.action, other.action)
    if resource is None or action is None:
        return None
    conditions = list(dict.fromkeys(filter(None, (one.condition, other.condition))))
    condition = conditions[0] if len(conditions) == 1 else " and ".join(f"({each})" for each in conditions)
    return Permission(False, resource, action, condition)


def _side_meeting(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...] | None:
    if len(one) > len(other):
        one, other = other, one
    if len(one) < len(other):
        if one[-1] != "*":
            return None
        one += ("*",) * (len(other) - len(one))
    if all(a == b or "*" in (a, b) for a, b in zip(one, other, strict=True)):
        return tuple(b if a == "*" else a for a, b in zip(one, other, strict=True))
    return None


def not_held(held: Iterable[str], granted: Iterable[str]) -> str | None:
    """The first of the permissions to be `granted` that goes beyond those `held`; None if all are covered.

    A grant is covered by a permission without a condition, or with the same one, unless something that is denied to
    the giver would be allowed by it and is not denied again.
    """
    ours, given = [parse(text) for text in held], [parse(text) for text in granted]
    for wanted in given:
        if not wanted.denies and not _is_held(ours, wanted, given):
            return str(wanted)
    return None


def _is_held(ours: list[Permission], wanted: Permission, given: list[Permission]) -> bool:
    if not any(not one.denies and one.condition in ("", wanted.condition) and _covers(one, wanted) for one in ours):
        return False
    forbidden = [met for one in ours if one.denies and (met := _meeting(one, wanted)) is not None]
    return all(
        any(other.denies and not other.condition and _covers(other, each) for other in given) for each in forbidden
    )
