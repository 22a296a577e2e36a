"""Targets: which an upstream has, which of them may be called, and which takes the next attempt."""

from __future__ import annotations

from asyncio import get_running_loop
from collections.abc import Callable, Collection, Sequence
from random import Random
from typing import TYPE_CHECKING, Final

from gateway.exchange import Request, Response
from gateway.metrics import GaugePart
from gateway.upstream.balancing import make_balancer
from gateway.upstream.balancing.load_report import FIELD
from gateway.upstream.health import Health, HealthState
from gateway.upstream.probe import Prober
from gateway.upstream.resolver import Name, Resolver
from gateway.upstream.sticky import Sticky
from gateway.upstream.target import Target, TargetOptions, TargetStates

if TYPE_CHECKING:
    from gateway.background import Background
    from gateway.fetch import Fetch
    from gateway.metrics import Metrics
    from gateway.tls.client import ClientTls
    from gateway.upstream.options import UpstreamOptions

SWEEP_SECONDS: Final = 1.0
"""How often ejections are looked at."""


class Targets:
    """The targets of one upstream. Names are resolved, probes asked and ejections ended in the background.

    `pick` is the balancer's, or that of `sticky` for a client that is kept at its target.
    `wants_feedback` says that `sent` and `answered` must be called for every attempt.
    """

    def __init__(
        self,
        upstream: str,
        options: UpstreamOptions,
        *,
        fetch: Fetch,
        tls: ClientTls | None,
        states: TargetStates,
        background: Background,
        metrics: Metrics,
    ) -> None:
        rng = Random()  # noqa: S311 - spreads load, guards nothing
        self._background = background
        self._upstream = upstream
        self._options = options
        self._balancer = make_balancer(options.balancer, rng)
        self.sticky = Sticky(options.sticky) if options.sticky is not None else None
        self.pick = self._balancer.pick if self.sticky is None else self._pick
        self.weigh = self._balancer.weigh
        self._health = Health(options.health) if options.health is not None else None
        self._prober: Prober | None = None
        if options.health is not None:
            self._prober = Prober(
                upstream,
                options.health,
                self._probed,
                fetch=fetch,
                tls=tls,
                rng=rng,
                background=background,
                metrics=metrics,
            )
        self._resolver = Resolver(
            upstream,
            [Name(_maker(upstream, target, states), options.resolver) for target in options.targets],
            options.resolver,
            self._changed,
            rng=rng,
            background=background,
            metrics=metrics,
        )
        self.all: Sequence[Target] = self._resolver.targets
        self.wants_feedback = self._balancer.wants_feedback or (self._health is not None and self._health.wants_answers)
        targets = metrics.gauge(
            "tallygate_upstream_targets", "Targets of the upstream, by state.", ("upstream", "state")
        )
        self._available = GaugePart(targets.labels(upstream, "available"))
        self._unavailable = GaugePart(targets.labels(upstream, "unavailable"))
        self._use()

    def inherit(self, previous: Targets) -> None:
        """Go on where the upstream's targets before a reload are: with their addresses, and with whose turn it is."""
        self._resolver.go_on_from(previous._resolver)
        self.all = self._resolver.targets
        if self._options.balancer == previous._options.balancer:
            self._balancer.inherit(previous._balancer)
        self._use()

    def leave(self) -> None:
        """They are not used any more, and count no longer."""
        self._available.set(0.0)
        self._unavailable.set(0.0)

    async def start(self) -> None:
        """Resolve all names, which takes no longer than the resolver's timeout, and go on in the background."""
        await self._resolver.start()
        if self._health is not None:
            self._background.every(SWEEP_SECONDS, self._sweep, f"health of {self._upstream}")

    def sent(self, target: Target, now: float, weight: int) -> None:
        """An attempt begins; exactly one `answered` follows."""
        self._balancer.sent(target, now, weight)

    def answered(self, target: Target, result: Response | None, seconds: float, ok: bool | None, weight: int) -> None:
        """An attempt ended: well, with a failure, or nobody waited for its end any more (None)."""
        now = get_running_loop().time()
        self._balancer.answered(target, seconds, ok, now, weight)
        if self._balancer.wants_reports and result is not None:
            report = result.headers.get(FIELD)
            if report is not None:
                del result.headers[FIELD]  # between a target and its balancer, and nobody else's business
                self._balancer.reported(target, report, now)
        if self._health is not None and self._health.answered(target, seconds, ok, now):
            self._use()

    def keep_client(self, request: Request, response: Response, target: Target) -> None:
        """Have the client come back to the target that answered it, unless with a failure."""
        if self.sticky is not None and response.status < 500:
            cookie = self.sticky.set_cookie(request, target)
            if cookie is not None:
                response.headers.add("Set-Cookie", cookie)

    def health(self, target: Target) -> tuple[HealthState, str]:
        """How a target is, and why it is not healthy where there is a reason."""
        if self._health is not None:
            return self._health.state(target)
        return "unknown" if target.weight else "draining", ""

    @property
    def panics(self) -> bool:
        """Whether so few are available that all are called."""
        return self._health is not None and self._health.panics

    def _pick(self, request: Request, now: float, avoid: Collection[Target] = ()) -> Target | None:
        kept = self.sticky.target(request) if self.sticky is not None else None
        return kept if kept is not None and kept not in avoid else self._balancer.pick(request, now, avoid)

    def _changed(self, targets: Sequence[Target]) -> None:
        self.all = targets
        self._use()
        if self._prober is not None:
            self._prober.watch(targets)

    def _use(self) -> None:
        available = list(self.all)
        if self._health is not None:
            self._health.use(self.all)
            available = self._health.available()
        self._balancer.use(available, get_running_loop().time())
        if self.sticky is not None:
            self.sticky.use(available)
        self._available.set(len(available))
        self._unavailable.set(len(self.all) - len(available))

    def _probed(self, target: Target, reason: str) -> None:
        if self._health is not None and self._health.probed(target, reason):
            self._use()

    def _sweep(self) -> None:
        if self._health is not None and self._health.sweep(get_running_loop().time()):
            self._use()


def _maker(upstream: str, options: TargetOptions, states: TargetStates) -> Callable[[str | None], Target]:
    def make(address: str | None) -> Target:
        target = Target(options, address=address)
        states.continue_with(upstream, target)
        return target

    return make
