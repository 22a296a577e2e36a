"""Health: which targets of an upstream may be called, from what probes and calls say of them.

A target is available while its probes find it well and its calls have not got it ejected. When too few are, the rest
would only be trampled, or it is the probes that are wrong: then all of them are used, as with Envoy's panic threshold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

from pydantic import Field

from gateway.options import Rate
from gateway.upstream.outlier import Outliers, PassiveOptions
from gateway.upstream.probe import ProbeOptions, Verdict
from gateway.upstream.target import Target

HealthState: TypeAlias = Literal["healthy", "unhealthy", "ejected", "draining", "unknown"]
"""What probes say (`unhealthy`), what calls say (`ejected`), what the configuration says (`draining`); `unknown` where
nobody looks, or has not yet.
"""


class HealthOptions(ProbeOptions):
    """How it is found out which targets can be used."""

    passive: PassiveOptions | None = None
    """Ejects targets because of what becomes of their calls; none if absent."""
    panic_threshold: Rate = Field(default=0.3, ge=0, le=1)
    """When fewer than this share of the targets are available, all are used; `0%` to answer 503 instead."""


class Health:
    """Keeps nothing itself: what is known of a target is in its state. Every change asks for `available` again."""

    def __init__(self, options: HealthOptions) -> None:
        self._options = options
        self._outliers = Outliers(options.passive) if options.passive is not None else None
        self._targets: Sequence[Target] = ()
        self.panics = False
        """Whether `available` gave up on telling targets apart."""

    @property
    def wants_answers(self) -> bool:
        """Whether `answered` must be called for every attempt."""
        return self._outliers is not None

    def use(self, targets: Iterable[Target]) -> None:
        """These are all there are, drained ones included."""
        self._targets = list(targets)
        for target in self._targets:
            if target.state.verdict is None:
                target.state.verdict = Verdict()
        if self._outliers is not None:
            self._outliers.use(self._targets)

    def available(self) -> list[Target]:
        """The targets that may be called, those that are drained among them: only clients they have go there."""
        available = [target for target in self._targets if not self.reason(target)]
        all_to_call = sum(1 for target in self._targets if target.weight)
        to_call = sum(1 for target in available if target.weight)
        self.panics = to_call < self._options.panic_threshold * all_to_call
        return list(self._targets) if self.panics else available

    def reason(self, target: Target) -> str:
        """Why it is not available; empty if it is."""
        verdict = target.state.verdict
        if self._options.path is not None and verdict is not None and verdict.healthy is False:
            return f"probe: {verdict.reason}" if verdict.reason else "probe: not well for long enough yet"
        return self._outliers.reason(target) if self._outliers is not None else ""

    def probed(self, target: Target, reason: str) -> bool:
        """A probe ended; `reason` is what was wrong, if anything. Returns whether `available` changed."""
        verdict = target.state.verdict
        return verdict is not None and verdict.note(reason, self._options)

    def answered(self, target: Target, seconds: float, ok: bool | None, now: float) -> bool:
        """An attempt ended, as the balancer is told too. Returns whether `available` changed."""
        if self._outliers is None or ok is None:
            return False
        return self._outliers.answered(target, seconds, ok, now)

    def sweep(self, now: float) -> bool:
        """To be called about once a second. Returns whether `available` changed."""
        return self._outliers is not None and self._outliers.sweep(now)

    def state(self, target: Target) -> tuple[HealthState, str]:
        """For an operator's eyes: how a target is, and why it is not healthy where there is a reason."""
        reason = self.reason(target)
        if reason:
            ejected = self._outliers is not None and reason == self._outliers.reason(target)
            return "ejected" if ejected else "unhealthy", reason
        if not target.weight:
            return "draining", ""
        verdict = target.state.verdict
        probed = self._options.path is not None and verdict is not None and verdict.healthy is not None
        judged = self._options.path is None and self._outliers is not None
        return "healthy" if probed or judged else "unknown", ""
