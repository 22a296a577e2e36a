"""Grants: what is left of a role's permissions under a key's, and what somebody may pass on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from gateway.conditions import parse_condition
from gateway.permissions import Permission, may_deny, parse

_DENIED: Final = parse("!*:*")


def narrowed(granted: Iterable[str], most: Iterable[str] | None) -> tuple[str, ...]:
    """What is left of `granted` where no more than `most` may be done; None leaves all of it.

    What either denies stays denied. What both allow is the narrower of the two, under the conditions of both.
    """
    if most is None:
        return tuple(dict.fromkeys(granted))
    ours, theirs = _read(granted), _read(most)
    denied = [permission for permission in (*ours, *theirs) if permission.denies]
    both = [
        met
        for one in ours
        for other in theirs
        if not one.denies and not other.denies and (met := _meeting(one, other)) is not None
    ]
    return tuple(dict.fromkeys(str(permission) for permission in (*both, *denied)))


def not_held(held: Iterable[str], granted: Iterable[str]) -> str | None:
    """The first of the permissions to be `granted` that goes beyond those `held`; None if all are covered.

    A grant is covered by a permission without a condition, or with the same one, unless something that is denied to
    the giver would be allowed by it and is not denied again.
    """
    ours, given = _read(held), _read(granted)
    for wanted in given:
        if not wanted.denies and not _is_held(ours, wanted, given):
            return str(wanted)
    return None


def allows_nothing(permissions: Iterable[str]) -> bool:
    """Whether there is nothing among these that allows anything."""
    return all(permission.denies for permission in _read(permissions))


def lifted(before: Iterable[str], after: Iterable[str]) -> tuple[str, ...]:
    """What was denied and is denied no more, as what it allows to whoever has it otherwise."""
    still = {str(permission) for permission in _read(after) if permission.denies}
    gone = [permission for permission in _read(before) if permission.denies and str(permission) not in still]
    return tuple(str(permission).removeprefix("!") for permission in gone)


def _read(texts: Iterable[str]) -> list[Permission]:
    """The permissions; one that cannot be read any more grants nothing, and denies everything if it was to deny."""
    permissions = []
    for text in texts:
        try:
            permissions.append(parse(text))
        except ValueError:
            if may_deny(text):
                permissions.append(_DENIED)
    return permissions


def _is_held(ours: Iterable[Permission], wanted: Permission, given: Iterable[Permission]) -> bool:
    sides = wanted.resource, wanted.action
    if not any(not one.denies and one.condition in (None, wanted.condition) and one.covers(*sides) for one in ours):
        return False
    forbidden = [met for one in ours if one.denies and (met := _meeting(one, wanted)) is not None]
    denied = [other for other in given if other.denies and other.condition is None]
    return all(any(other.covers(each.resource, each.action) for other in denied) for each in forbidden)


def _meeting(one: Permission, other: Permission) -> Permission | None:
    """What both are about, as a grant under the conditions of both; None if there is nothing."""
    resource, action = _side_meeting(one.resource, other.resource), _side_meeting(one.action, other.action)
    if resource is None or action is None:
        return None
    conditions = list(dict.fromkeys(str(each.condition) for each in (one, other) if each.condition is not None))
    if len(conditions) > 1:
        conditions = [" and ".join(f"({each})" for each in conditions)]
    try:
        condition = parse_condition(conditions[0]) if conditions else None
    except ValueError:
        return None  # the two together are longer than a condition may be: nobody could read it
    return Permission(resource, action, condition=condition)


def _side_meeting(one: Sequence[str], other: Sequence[str]) -> tuple[str, ...] | None:
    """Segments that both patterns cover; `*` at the end of one stands for one or more."""
    one, other = sorted((tuple(one), tuple(other)), key=len)
    if len(one) < len(other):
        if one[-1] != "*":
            return None
        one += ("*",) * (len(other) - len(one))
    if all(a == b or "*" in (a, b) for a, b in zip(one, other, strict=True)):
        return tuple(b if a == "*" else a for a, b in zip(one, other, strict=True))
    return None
