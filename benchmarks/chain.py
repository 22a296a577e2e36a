"""Chain: what key_auth and authorize add to an empty chain, for a published caller who is known.

In one process and without sockets: everything else about a request costs several times as much and would hide it. The
Valkey, what is published in it and what follows that are real; no request of those measured asks it.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, cast

from benchmarks import budgets
from benchmarks.directory import publish
from benchmarks.programs import ProgramFailed
from benchmarks.report import table
from gateway.background import Background
from gateway.chain import Chain
from gateway.clock import Clock
from gateway.config.plugin_loader import load_plugin
from gateway.consumers import Consumers
from gateway.decisions import Decisions
from gateway.directory.directory import Directory
from gateway.directory.options import DirectoryOptions
from gateway.directory.published import CONNECTIONS, Published
from gateway.embedded.valkey import EmbeddedValkey
from gateway.exchange import Exchange, Request, Response
from gateway.http1.request_reader import RequestReader
from gateway.keys import new_key
from gateway.metrics import Metrics
from gateway.plugin import AnyPlugin
from gateway.services import Services
from gateway.stores.redis import Redis

ROUNDS: Final = 41
"""Of each chain, one after the other; the median of the differences counts."""
REQUESTS: Final = 2000
PUBLISHED: Final = 10_000
_LARGEST_HEAD: Final = 64 * 1024
_OPTIONS: Final[dict[str, dict[str, Any]]] = {"key_auth": {}, "authorize": {"permission": "books:{action}"}}


def run(directory: Path) -> int:
    """Measure, print and judge. Returns the exit status."""
    found = asyncio.run(measure(directory))
    rows: list[Sequence[str]] = [("a chain of", "µs a request", "more than an empty one")]
    rows += [(name, f"{spent:.2f}", f"{spent - found['nothing']:.2f}") for name, spent in found.items()]
    print(table(rows), flush=True)
    added = found["key_auth, authorize"] - found["nothing"]
    return budgets.verdict("chain", {"key_auth_and_authorize_microseconds": round(added, 2)})


async def measure(directory: Path) -> dict[str, float]:
    """Microseconds of each chain. Raises ProgramFailed if it did not do its work."""
    key = new_key("test")
    async with AsyncExitStack() as stack:
        valkey = EmbeddedValkey(directory, persistent=False)
        await valkey.start()
        stack.push_async_callback(valkey.stop)
        redis = Redis(valkey.url, connections=CONNECTIONS)
        stack.push_async_callback(redis.close)
        await publish(valkey.url, [key], PUBLISHED)
        clock, metrics = Clock(), Metrics(None)
        published = Published(DirectoryOptions(), redis, deadline=1.0, clock=clock, metrics=metrics)
        await published.start()
        stack.push_async_callback(published.stop)
        services = _services(Directory(Consumers(), published), redis, clock, metrics)
        stack.push_async_callback(services.background.stop)
        plugins = {name: _plugin(name, options, services) for name, options in _OPTIONS.items()}
        chains = {"nothing": Chain([]), "key_auth": Chain([plugins["key_auth"]])}
        chains["key_auth, authorize"] = Chain(list(plugins.values()))
        first = Exchange(_requests(key, 1)[0], clock)
        if (entering := chains["key_auth, authorize"].enter(first)) is not None:
            await cast("Any", entering)  # the one time that the store is asked
        spent: dict[str, list[float]] = {name: [] for name in chains}
        for _ in range(ROUNDS):
            for name, chain in chains.items():
                spent[name].append(_round(chain, _requests(key, REQUESTS), clock))
            await asyncio.sleep(0)  # what follows the changes goes on meanwhile
        return {name: statistics.median(each) for name, each in spent.items()}


def _round(chain: Chain, requests: Sequence[Request], clock: Clock) -> float:
    """Microseconds that a request takes in this chain, there and back."""
    response = Response(200)
    start = time.perf_counter()
    for request in requests:
        exchange = Exchange(request, clock)
        exchange.route = "books"
        if chain.enter(exchange) is not None:
            raise ProgramFailed("a request had to wait, or was answered by a plugin")
        chain.leave(exchange, response)
        chain.finish(exchange)
    spent = time.perf_counter() - start
    if chain.plugins and exchange.consumer is None:
        raise ProgramFailed("nobody was recognized: something else was measured")
    return spent / len(requests) * 1e6


def _requests(key: str, count: int) -> list[Request]:
    """Requests as they come on a connection that stays."""
    reader = RequestReader(cast("Any", None), _LARGEST_HEAD)
    head = f"GET /books/7 HTTP/1.1\r\nHost: a\r\nAccept: */*\r\nX-Api-Key: {key}\r\n\r\n".encode()
    return [cast("Request", reader.feed(head) or reader.resume()) for _ in range(count)]


def _plugin(name: str, options: dict[str, Any], services: Services) -> AnyPlugin:
    plugin = load_plugin(name)
    make: Callable[..., AnyPlugin] = plugin
    return make(plugin.config_type.model_validate(options), services)


def _services(directory: Directory, redis: Redis, clock: Clock, metrics: Metrics) -> Services:
    """Without those that these plugins never ask for."""
    nothing = cast("Any", None)
    return Services(
        clock=clock,
        metrics=metrics,
        background=Background(),
        consumers=Consumers(),
        directory=directory,
        decisions=Decisions(redis, clock, metrics),
        journal=nothing,
        redis=redis,
        workers=nothing,
        access_log=nothing,
        forward=nothing,
        spans=nothing,
        fetch=nothing,
    )
