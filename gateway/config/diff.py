"""What differs between two configurations, a line each; what takes protection away is flagged.

A route that loses what guards it and a limit that is loosened are easily overlooked among other changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from gateway.config.description import GUARDED_BY, NONE, Description, Part
from gateway.options import parse_duration, parse_size

_LONGEST: Final = 80
_LIMITS_CLIENTS: Final = re.compile(r"(?:listener|route|section) ")
"""Parts whose limits are there to protect; an upstream's are for tuning."""
_LOOSER_IF_MORE: Final = re.compile(r"(?:.*[.\]])?(?:max_\w+|size|requests|burst|limit|rate)")
_LOOSER_IF_LESS: Final = re.compile(r"(?:.*[.\]])?(?:min_\w+|minimum_\w+|window)")
_BLOCK: Final = re.compile(r"(.*?\])[.]")
"""What the names of options in a block of a list begin with."""


class Difference(NamedTuple):
    """One line. `flagged`: it says that protection is taken away."""

    text: str
    flagged: bool = False

    def __str__(self) -> str:
        return f"! {self.text}" if self.flagged else f"  {self.text}"


def differences(before: Description, after: Description) -> list[Difference]:
    """What differs, flagged lines first."""
    found = [line for name in dict.fromkeys((*before, *after)) for line in _of_part(name, before, after)]
    return sorted(found, key=lambda line: not line.flagged)


def _of_part(name: str, before: Description, after: Description) -> Iterator[Difference]:
    route, _, plugin = name.partition(", plugin ")
    if name in before and name in after:
        yield from _of_options(name, before[name], after[name])
    elif plugin and not (route in before and route in after):
        return  # it comes or goes with its route
    elif name in before:
        yield Difference(f"{name}: removed")
    else:
        unguarded = name.startswith("route ") and not plugin and not any(map(_guard, after[name]))
        yield Difference(f"{name}: added{', with nothing to guard it' if unguarded else ''}")


def _of_options(name: str, before: Part, after: Part) -> Iterator[Difference]:
    came_or_went = _blocks(before) ^ _blocks(after)
    for block in sorted(came_or_went):
        yield Difference(f"{name}: {block} {'added' if block in _blocks(after) else 'removed'}")
    for option in dict.fromkeys((*before, *after)):
        old, new = before.get(option, NONE), after.get(option, NONE)
        in_block = _BLOCK.match(option)
        if old == new or (in_block is not None and in_block[1] in came_or_went):
            continue
        if guard := _guard(option):
            if new == NONE:
                yield Difference(f"{name}: {guard} removed (it was {old})", flagged=True)
            continue
        loosened = _LIMITS_CLIENTS.match(name) is not None and _is_looser(option, old, new)
        text = f"{name}: {option} {'loosened, ' if loosened else ''}{_short(old)} → {_short(new)}"
        yield Difference(text, loosened)


def _guard(option: str) -> str:
    """What a route is guarded by, where that is what the option says."""
    return option.removeprefix(GUARDED_BY) if option.startswith(GUARDED_BY) else ""


def _blocks(part: Part) -> set[str]:
    return {match[1] for option in part if (match := _BLOCK.match(option))}


def _is_looser(option: str, old: str, new: str) -> bool:
    more, less = _LOOSER_IF_MORE.fullmatch(option), _LOOSER_IF_LESS.fullmatch(option)
    before, now = _amount(old), _amount(new)
    if before is None or now is None or not (more or less):
        return False
    return now > before if more else now < before


def _amount(text: str) -> float | None:
    """A number, a size or a duration, for comparing; no limit at all is more than any."""
    if text == NONE:
        return float("inf")
    for parse in (float, parse_size, parse_duration):
        try:
            return parse(text)
        except ValueError:
            continue
    return None


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
