"""Resolver: the addresses behind a target's name, all of them, looked up again and again.

Every address becomes a target. One that is still there at the next look keeps its Target, and with it its connections
and all that is known of it. A lookup that fails changes nothing: an old answer is better than none.
"""

from __future__ import annotations

import logging
import socket
from asyncio import gather, get_running_loop, sleep, timeout
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import closing
from ipaddress import ip_address
from random import Random
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from pydantic import Field

from gateway.options import Duration, Options
from gateway.upstream.jitter import jittered
from gateway.upstream.target import Target

if TYPE_CHECKING:
    from gateway.background import Background
    from gateway.metrics import Metrics

log = logging.getLogger(__name__)

FIRST_RETRY_SECONDS: Final = 1.0
"""After a failure; each further one doubles it, up to the interval."""


class ResolverOptions(Options):
    """How the names of targets are resolved. An address in a target's URL is used as it is, and so is `localhost`."""

    interval: Duration = Field(default=30.0, ge=1.0)
    """Time between two lookups of a name, give or take a tenth."""
    timeout: Duration = Field(default=2.0, gt=0)
    """How long a lookup may take."""
    family: Literal["any", "ipv4", "ipv6"] = "any"
    """Which addresses are used. A server with one of each kind is two targets, unless this says otherwise."""
    max_addresses: int = Field(default=64, ge=1)
    """The most addresses of one name that are used."""


MakeTarget: TypeAlias = Callable[[str | None], Target]
"""Makes the target of one of a name's addresses; of None, the target as it is configured."""
LookUp: TypeAlias = Callable[[str, int, socket.AddressFamily], Awaitable[list[str]]]
"""The addresses of a host, for a port. Raises OSError."""
_FAMILIES: Final = {"any": socket.AF_UNSPEC, "ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}


class Name:
    """The addresses of one host, as targets: what is known, and what a lookup changes about it."""

    def __init__(self, make: MakeTarget, options: ResolverOptions) -> None:
        unresolved = make(None)
        self.host = unresolved.host
        self.port = unresolved.port
        self.is_fixed = is_fixed(self.host)
        self._make = make
        self._options = options
        self._failures = 0
        self._targets = {self.host: unresolved} if self.is_fixed else {}

    @property
    def targets(self) -> list[Target]:
        """In the order of their addresses, which is the same in every process."""
        return [self._targets[address] for address in sorted(self._targets)]

    def found(self, addresses: Iterable[str]) -> bool:
        """A lookup succeeded. Returns whether `targets` changed.

        Of more addresses than are used, those that are in use already stay.
        """
        self._failures = 0
        ranked = sorted(set(addresses), key=lambda address: (address not in self._targets, address))
        chosen = ranked[: self._options.max_addresses]
        changed = set(chosen) != self._targets.keys()
        if changed:
            self._targets = {address: self._targets.get(address) or self._make(address) for address in chosen}
        return changed

    def failed(self) -> bool:
        """A lookup failed; what is known stays. Returns whether the one before had succeeded."""
        self._failures += 1
        return self._failures == 1

    def next_lookup(self, rng: Random) -> float:
        """Seconds until the name is looked up again."""
        interval = self._options.interval
        if self._failures:
            interval = min(interval, FIRST_RETRY_SECONDS * 2 ** min(self._failures - 1, 30))
        return jittered(interval, rng)


class Resolver:
    """Keeps the targets of an upstream up to date and tells `changed` all of them whenever they are others."""

    def __init__(
        self,
        upstream: str,
        names: Sequence[Name],
        options: ResolverOptions,
        changed: Callable[[list[Target]], None],
        *,
        look_up: LookUp | None = None,
        rng: Random,
        background: Background,
        metrics: Metrics,
    ) -> None:
        self._upstream = upstream
        self._names = names
        self._timeout = options.timeout
        self._family = _FAMILIES[options.family]
        self._max_addresses = options.max_addresses
        self._changed = changed
        self._addresses_of = look_up or addresses_of
        self._rng = rng
        self._background = background
        self._lookups = metrics.counter(
            "tallygate_lookups_total",
            "Lookups of targets' names, by outcome: found, failed, or too_many addresses to use them all.",
            ("upstream", "outcome"),
        )

    @property
    def targets(self) -> list[Target]:
        """All that are known now."""
        return [target for name in self._names for target in name.targets]

    def go_on_from(self, before: Resolver) -> None:
        """After a reload: begin with the addresses that the resolver before knew of the same names."""
        known = {(name.host, name.port): name for name in before._names}
        for name in self._names:
            old = known.get((name.host, name.port))
            if old is not None and not name.is_fixed:
                _ = name.found(target.host for target in old.targets)

    async def start(self) -> None:
        """Look all names up once, which takes no longer than the timeout, and go on in the background."""
        to_resolve = [name for name in self._names if not name.is_fixed]
        await gather(*[self._look_up(name) for name in to_resolve])
        self._changed(self.targets)
        for name in to_resolve:
            _ = self._background.start(self._look_up_again(name), f"addresses of {name.host}")

    async def _look_up_again(self, name: Name) -> None:
        while True:
            await sleep(name.next_lookup(self._rng))
            if await self._look_up(name):
                self._changed(self.targets)

    async def _look_up(self, name: Name) -> bool:
        try:
            async with timeout(self._timeout):
                addresses = await self._addresses_of(name.host, name.port, self._family)
        except (OSError, TimeoutError) as error:
            self._count("failed")
            if name.failed():
                reason = str(error) or "no answer in time"
                log.warning("upstream %s: no addresses for %s: %s", self._upstream, name.host, reason)
            return False
        self._count("too_many" if len(set(addresses)) > self._max_addresses else "found")
        return name.found(addresses)

    def _count(self, outcome: str) -> None:
        self._lookups.labels(self._upstream, outcome).inc()


async def addresses_of(host: str, port: int, family: socket.AddressFamily) -> list[str]:
    """The addresses of a host that can be reached from this machine. Raises OSError if there are none."""
    found = await get_running_loop().getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
    reachable = [str(address[0]) for family, _, _, _, address in found if _has_route(family, address)]
    if not reachable:
        raise OSError("none of its addresses can be reached from here")
    return reachable


def _has_route(family: int, address: tuple[object, ...]) -> bool:
    """Whether the kernel knows a way there. Connecting a datagram socket sends nothing."""
    with closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect(address)
        except OSError:
            return False
    return True


def is_fixed(host: str) -> bool:
    """Whether a host is one target for good: an address, or this machine."""
    if host == "localhost":
        return True
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
