"""Reload: takes a changed configuration to all edge processes of a node, or to none of them.

In two steps: every process builds what it would serve with, beside what it serves with; when all have, all go over to
it, and if one has not, nothing has happened. What decides is the moment in which the new generation becomes current for
the supervisor: a process that misses it catches up, or is started again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from gateway.background import Background
from gateway.clock import Clock
from gateway.config.composition import ConfigError
from gateway.config.configuration import GatewayConfig
from gateway.config.description import describe, options_of
from gateway.config.diff import differences
from gateway.config.source import Steps, error_lines
from gateway.config.watch import ConfigWatch
from gateway.metrics import Metrics
from gateway.node.edge_process import EdgeProcess
from gateway.node.generation import Generation
from gateway.node.sockets import CannotListen

FIXED: Final = ("processes", "admin", "stores", "usage", "billing", "control", "directory")
"""What a running node has been built around: sockets, journals, other processes."""
_MOST_LOGGED: Final = 20

_log: Final = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """What came of a reload: what has changed, a line each, or why nothing has."""

    at: datetime
    changes: list[str]
    errors: list[str]


class Reloader:
    """`current` is the generation that all edge processes serve with, or are about to."""

    def __init__(
        self,
        generation: Generation,
        edges: Sequence[EdgeProcess],
        read: Callable[[], GatewayConfig],
        *,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        """`read` reads the configuration as it stands now; it may take its time, and raises ConfigError."""
        self.current = generation
        self.last: Outcome | None = None
        self._edges = edges
        self._read = read
        self._clock = clock
        self._number = generation.number
        self._background = Background()
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[Outcome] | None = None
        self._watch = ConfigWatch(self._next_turn, wanted=lambda: self.current.config.reload.watch)
        self._watch.follow(generation.config.source.files)
        self._success = metrics.gauge(
            "tallygate_config_last_reload_success", "Whether the last reload was taken: 1 or 0."
        )
        self._taken_at = metrics.gauge(
            "tallygate_config_last_reload_timestamp_seconds", "When the configuration was taken that is served now."
        )
        self._reloads = metrics.counter(
            "tallygate_config_reloads_total", "Reloads that were taken, and that were refused.", ("result",)
        )
        self._count(taken=True)

    def start(self) -> None:
        """Begin to watch the files, where the configuration asks for it."""
        self._watch.start(self._background)

    async def stop(self) -> None:
        """Breaks off a reload that is under way."""
        await self._background.stop()

    async def reload(self) -> list[str]:
        """Have all processes serve with what the files say now; what has changed, a line each.

        Raises ConfigError, and then nothing has. Who asks while a reload is under way shares the next one with others.
        """
        outcome = await self._next_turn()
        if outcome.errors:
            raise ConfigError(outcome.errors)
        return outcome.changes

    def reload_soon(self) -> None:
        """As `reload`; what comes of it is only logged."""
        _ = self._background.start(self._next_turn(), "reload on a signal")

    def report(self) -> dict[str, Any]:
        """Which configuration is current, which one each process serves with, and what came of the last reload."""
        report: dict[str, Any] = {
            "generation": self.current.number,
            "fingerprint": self.current.fingerprint,
            "processes": {edge.child.name: edge.generation for edge in self._edges},
        }
        if self.last is not None:
            report["last_reload"] = {
                "at": self.last.at.isoformat(timespec="seconds"),
                "taken": not self.last.errors,
                "errors": self.last.errors,
            }
        return report

    async def _next_turn(self) -> Outcome:
        if self._next is None:
            self._next = self._background.start(self._take_turn(), "reload")
        turn = self._next
        await asyncio.wait({turn})  # whoever leaves meanwhile does not cancel it for the others
        return turn.result()

    async def _take_turn(self) -> Outcome:
        async with self._turn:
            self._next = None
            changes, errors = [], []
            try:
                changes = await self._take()
            except ConfigError as error:
                errors = error.errors
            self.last = Outcome(datetime.fromtimestamp(self._clock.micros() / 1e6, UTC), changes, errors)
            self._count(taken=not errors)
            self._say(self.last)
            return self.last

    async def _take(self) -> list[str]:
        before = self.current
        generation, changes = await self._next_generation(before)
        try:
            await self._prepare(generation)
        except BaseException:
            for edge in self._edges:
                edge.abort(generation)
            generation.close(keep=before)
            raise
        self.current = generation
        before.close(keep=generation)
        await asyncio.gather(*[edge.commit(generation) for edge in self._edges if edge.child.ready])
        return changes

    async def _next_generation(self, before: Generation) -> tuple[Generation, list[str]]:
        """What the files say, if that can be taken at all, and what it changes. Raises ConfigError."""
        try:
            config = await asyncio.to_thread(self._read)
        except ConfigError as error:
            if error.files:
                self._watch.follow(error.files)
            raise
        self._watch.follow(config.source.files)
        refuse_fixed(before.config, config)
        changes = await asyncio.to_thread(changes_between, before.config, config)
        self._number += 1
        try:
            return Generation(self._number, config, before.slots, before), changes
        except CannotListen as error:
            raise ConfigError([str(error)]) from error

    async def _prepare(self, generation: Generation) -> None:
        """All that may fail. Raises ConfigError."""
        ready = [edge for edge in self._edges if edge.child.ready]  # the others will begin with what is current then
        answers = await asyncio.gather(*[edge.prepare(generation) for edge in ready])
        errors = list(dict.fromkeys(line for lines in answers for line in lines))
        if errors:
            raise ConfigError(errors)
        try:
            generation.sockets.listen()
        except CannotListen as error:
            raise ConfigError([str(error)]) from error

    def _count(self, *, taken: bool) -> None:
        self._success.set(float(taken))
        if taken:
            self._taken_at.set(self._clock.micros() / 1e6)

    def _say(self, outcome: Outcome) -> None:
        if outcome.errors:
            self._reloads.labels("refused").inc()
            text = "; ".join(outcome.errors[:_MOST_LOGGED])
            _log.error("the configuration is refused, and the one before goes on: %s", text)
        else:
            self._reloads.labels("taken").inc()
            text = "; ".join(outcome.changes[:_MOST_LOGGED]) or "nothing has changed"
            _log.info("configuration %d is served: %s", self.current.number, text)


def changes_between(before: GatewayConfig, after: GatewayConfig) -> list[str]:
    """What differs, a line each. That only the environment or a file says something else is said, but not what."""
    changes = [str(difference) for difference in differences(describe(before), describe(after))]
    if not changes and before.source.value != after.source.value:
        return ["  a value from the environment or a file that is not shown here"]
    return changes


def refuse_fixed(before: GatewayConfig, after: GatewayConfig) -> None:
    """Raises ConfigError where something differs that cannot change while the node runs."""
    source = after.source
    for name in FIXED:
        old, new = (_values(config, name) for config in (before, after))
        for steps in dict.fromkeys((*old, *new)):
            if (steps in old, old.get(steps)) != (steps in new, new.get(steps)):
                source.fault(steps, "cannot change while the gateway runs: a restart is needed")
    if source.faults:
        raise ConfigError(error_lines(source.faults))


def _values(config: GatewayConfig, name: str) -> dict[Steps, Any]:
    return {option.steps: option.value for option in options_of(getattr(config, name), config.source, (name,))}
