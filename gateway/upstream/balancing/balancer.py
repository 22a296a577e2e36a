"""The balancer contract: which target takes the next attempt. This file is the whole of it.

Balancers decide and do nothing else: no I/O, no clock, no randomness but what they are handed. `now` is seconds of the
event loop's clock.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from typing import ClassVar, Self

from gateway.exchange import Request
from gateway.upstream.target import Target


class Balancer(ABC):
    """Picks from the targets in `use`. What it learns of one is in its TargetState, which outlives a reload."""

    wants_feedback: ClassVar[bool] = False
    """Whether `sent` and `answered` must be called for every attempt; the others are spared the cost."""
    wants_reports: bool = False
    """Whether `reported` must be called for every response that has the field `load_report.FIELD`."""

    def __init__(self) -> None:
        self.targets: Sequence[Target] = ()

    def inherit(self, previous: Self) -> None:
        """Go on where one of the same kind and options is, before a reload; it goes on as well. `use` follows."""
        self.targets = previous.targets

    def use(self, targets: Iterable[Target], now: float) -> None:
        """From now on these are available. Drained ones, of weight 0, are left out."""
        self.targets = [target for target in targets if target.weight]

    @abstractmethod
    def pick(self, request: Request, now: float, avoid: Collection[Target] = ()) -> Target | None:
        """The target for the next attempt; None if none is available.

        `avoid` is what this call has tried already: such a target is picked only if there is no other.
        """

    def weigh(self, request: Request) -> int:
        """How many usual requests this one is as heavy as; asked once per request if feedback is wanted."""
        return 1

    def sent(self, target: Target, now: float, weight: int = 1) -> None:
        """An attempt begins. Exactly one `answered` with the same weight follows."""
        target.state.in_flight += weight

    def answered(self, target: Target, seconds: float, ok: bool | None, now: float, weight: int = 1) -> None:
        """An attempt ended: well, with a failure (not `ok`), or nobody waited for its end any more (None).

        `seconds` is how long the response's head took; how long a body streams says nothing about its target.
        """
        target.state.in_flight -= weight

    def reported(self, target: Target, report: str, now: float) -> None:  # noqa: B027 - for those that want reports
        """A response said how busy its target is."""


def unless_avoided(targets: Sequence[Target], avoid: Collection[Target]) -> Sequence[Target]:
    """The targets that were not tried yet, or all if all were."""
    return [target for target in targets if target not in avoid] or targets
