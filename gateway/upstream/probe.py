"""Probe: asks each target at intervals whether it is well, so that one that is not is left out before a call fails.

`Verdict` decides, `Prober` asks: a plain GET over a connection of its own, so that it is also known whether the target
still accepts connections. Every process probes for itself; what one cannot reach another may.
"""

from __future__ import annotations

from asyncio import Task, sleep
from collections.abc import Callable, Iterable
from random import Random
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from gateway.fetch import Fetch, FetchFailed
from gateway.options import Duration, Options, Statuses, parse_statuses
from gateway.upstream.jitter import SHARE, jittered
from gateway.upstream.target import Target

if TYPE_CHECKING:
    from gateway.background import Background
    from gateway.metrics import Metrics
    from gateway.tls.client import ClientTls


class ProbeOptions(Options):
    """How targets are asked whether they are well."""

    path: str | None = Field(default=None, max_length=1024)
    """Path of a GET to each target; targets are not asked if absent."""
    interval: Duration = Field(default=5.0, ge=0.1)
    """Time between two questions to a target, give or take a tenth."""
    timeout: Duration = Field(default=1.0, gt=0)
    """How long an answer may take."""
    healthy_after: int = Field(default=2, ge=1)
    """Good answers in a row that make an unhealthy target healthy."""
    unhealthy_after: int = Field(default=3, ge=1)
    """Bad or missing answers in a row that make a healthy target unhealthy."""
    statuses: Statuses = parse_statuses("200-299")
    """Statuses of good answers: a status, a range such as `200-399`, or a list of both."""

    @field_validator("path")
    @classmethod
    def _path_is_one(cls, value: str | None) -> str | None:
        if value is not None and (not value.startswith("/") or not value.isascii() or not value.isprintable()):
            raise ValueError(f"not a path: {value!r} (write one that begins with /, such as /health)")
        if value is not None and (" " in value or "#" in value):
            raise ValueError(f"not a path: {value!r} (write a space as %20 and # as %23)")
        return value


class Verdict:
    """Whether a target is well. The first answer decides at once; until then it is taken to be well."""

    __slots__ = ("against", "healthy", "reason")

    def __init__(self) -> None:
        self.healthy: bool | None = None
        self.against = 0  # answers in a row that speak against it
        self.reason = ""
        """What was wrong with the last answer; empty if nothing was."""

    def note(self, reason: str, options: ProbeOptions) -> bool:
        """An answer: `reason` is what was wrong with it, empty for a good one. Returns whether the verdict changed."""
        good = not reason
        self.reason = reason
        if self.healthy is None:
            self.healthy = good
            return not good
        if good is self.healthy:
            self.against = 0
            return False
        self.against += 1
        if self.against < (options.healthy_after if good else options.unhealthy_after):
            return False
        self.healthy = good
        self.against = 0
        return True


class Prober:
    """Asks the targets it `watch`es, each in a task of its own, and tells `answered` what was wrong, if anything."""

    def __init__(
        self,
        upstream: str,
        options: ProbeOptions,
        answered: Callable[[Target, str], None],
        *,
        fetch: Fetch,
        tls: ClientTls | None,
        rng: Random,
        background: Background,
        metrics: Metrics,
    ) -> None:
        self._upstream = upstream
        self._tls = tls
        self._options = options
        self._answered = answered
        self._fetch = fetch
        self._rng = rng
        self._background = background
        self._tasks: dict[Target, Task[None]] = {}
        self._probes = metrics.counter(
            "tallygate_probes_total",
            "Probes of an upstream's targets, by outcome: good, bad.",
            ("upstream", "outcome"),
        )

    def watch(self, targets: Iterable[Target]) -> None:
        """Ask these from now on, and no others."""
        watched = list(targets) if self._options.path is not None else []
        for target in self._tasks.keys() - set(watched):
            self._tasks.pop(target).cancel()
        for target in watched:
            if target not in self._tasks:
                self._tasks[target] = self._background.start(self._ask_on(target), f"probe of {target.name}")

    async def _ask_on(self, target: Target) -> None:
        interval = self._options.interval
        await sleep(interval * SHARE * self._rng.random())
        while True:
            reason = await self.ask(target)
            self._probes.labels(self._upstream, "bad" if reason else "good").inc()
            self._answered(target, reason)
            await sleep(jittered(interval, self._rng))

    async def ask(self, target: Target) -> str:
        """Ask once. What was wrong with the answer; empty if it was good."""
        url = f"{'https' if target.secure else 'http'}://{target.address}{self._options.path or '/'}"
        tls = self._tls.terms_of(target.server_name) if self._tls is not None and target.secure else None
        fields = {"host": target.authority}
        try:
            status = await self._fetch.status(url, within=self._options.timeout, fields=fields, tls=tls)
        except FetchFailed as failure:
            return str(failure)
        return "" if status in self._options.statuses else f"status {status}"
