"""Play: a plugin test in three lines. Real chain, real consumers, a real journal; only the upstream is a script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from gateway.background import Background
from gateway.chain import Chain
from gateway.clock import Clock
from gateway.consumers import ConsumerOptions, Consumers, KeyOptions
from gateway.decisions import Decisions
from gateway.directory.directory import Directory
from gateway.directory.published import Published
from gateway.exchange import Exchange, Outcome, Request, Response
from gateway.fetch import Fetch
from gateway.headers import Headers
from gateway.keys import digest
from gateway.metering.event import UsageEvent
from gateway.metering.journal import JournalOptions
from gateway.metering.segment import FINAL, SegmentReader, decode_payload
from gateway.metering.usage import Usage, UsageOptions
from gateway.metrics import Metrics
from gateway.plugin import AnyPlugin
from gateway.services import Services
from gateway.stores.redis import Redis
from gateway.workers import Workers

# The same in every process that collects tests: they occur in the names of some.
KEY = "tg_test_1IPp20Q8kUP3rlLPHwiG4jOn1Taeo0D129S0i4"
OTHER_KEY = "tg_test_SWKd6IdxORONiO3ykBS9WI5Q3livmwrw2nrHQA"
NOWHERE = "redis://127.0.0.1:1"


class Lines:
    """An access log that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def write(self, line: Mapping[str, Any] | msgspec.Struct) -> None:
        self.lines.append(msgspec.to_builtins(line))


class Spans:
    """A way to a collector that keeps its spans."""

    def __init__(self) -> None:
        self.spans: list[dict[str, Any]] = []

    def write(self, span: bytes) -> None:
        self.spans.append(msgspec.json.decode(span))


@dataclass
class Played:
    """What came of an exchange."""

    exchange: Exchange
    response: Response
    body: bytes
    seen_upstream: Request | None


class Stage:
    """Where plugins are played: services of their own, and a journal in a directory of the test's."""

    def __init__(
        self,
        directory: Path,
        redis: str = NOWHERE,
        *,
        consumers: Sequence[ConsumerOptions] = (),
        published: Published | None = None,
        **journal: Any,
    ) -> None:
        """`consumers` are there besides bob of acme, who has two keys."""
        self.directory = directory
        self.metrics = Metrics(None)
        self.clock = Clock()
        self.access_log = Lines()
        self.spans = Spans()
        self._redis = Redis(redis, deadline=0.2)
        self.decisions = Decisions(self._redis if published is not None else None, self.clock, self.metrics)
        self.workers = Workers(self.metrics)
        options = JournalOptions(directory=str(directory), segment=64 * 1024, **journal)
        self.usage = Usage(UsageOptions(journal=options), redis=self._redis, clock=self.clock, metrics=self.metrics)
        keys = [KeyOptions(id="k1", sha256=digest(KEY).hex()), KeyOptions(id="k2", sha256=digest(OTHER_KEY).hex())]
        consumer = ConsumerOptions(name="bob", organization="acme", subscription="s1", keys=keys)
        known = Consumers([consumer, *consumers])
        self.services = Services(
            clock=self.clock,
            metrics=self.metrics,
            background=Background(),
            consumers=known,
            directory=Directory(known, published),
            decisions=self.decisions,
            journal=self.usage.journal,
            redis=self._redis,
            workers=self.workers,
            access_log=self.access_log,  # type: ignore[arg-type]
            forward=_no_upstream,
            spans=lambda _options: self.spans,  # type: ignore[arg-type, return-value]
            fetch=Fetch(),
        )

    def make(self, kind: type[AnyPlugin], **options: Any) -> AnyPlugin:
        """A plugin with these options, as its block in the configuration would make it."""
        return kind(kind.config_type.model_validate(options), self.services)

    async def play(
        self,
        *plugins: AnyPlugin,
        request: Request | None = None,
        answer: Response | Exception | None = None,
        pieces: Sequence[bytes] | None = None,
        broken: Outcome | None = None,
        until_close: bool = False,
    ) -> Played:
        """One exchange: hooks are called as delivery calls them. `broken` ends the body before its last piece."""
        request = request or ask()
        chain, exchange = Chain(plugins), Exchange(request, self.clock)
        exchange.route = "r"
        seen: list[Request] = []

        async def forward(going: Exchange) -> Response:
            seen.append(going.request)
            going.upstream = "u"
            if isinstance(answer, Exception):
                raise answer
            return answer or Response(200, {"content-type": "application/json"}, b"{}")

        response = await chain.respond(exchange, forward)
        exchange.until_close = until_close
        whole = response.body if isinstance(response.body, bytes) else b""
        sending = list(pieces) if pieces is not None and seen else [whole]
        body = b""
        for place, piece in enumerate(sending):
            last = place == len(sending) - 1
            if last and broken:
                exchange.outcome = broken
                break
            sent = chain.passes(exchange, piece, last)
            if last and exchange.hold_last is not None:
                await exchange.hold_last
            exchange.status_sent = response.status
            exchange.bytes_out += len(sent)
            body += sent
        exchange.finished_at = self.clock.monotonic()
        chain.finish(exchange)
        return Played(exchange, response, body, seen[0] if seen else None)

    def events(self) -> list[UsageEvent]:
        """The final records in the journal, in the order they were written."""
        found: list[UsageEvent] = []
        for path in sorted(self.directory.glob("*/*.segment")):
            payloads = [record.payload for record in SegmentReader(path) if record.kind == FINAL]
            found += [event for event in map(decode_payload, payloads) if event is not None]
        return found

    async def close(self) -> None:
        """Leave nothing behind."""
        await self.services.background.stop()
        await self.services.fetch.close()
        await self.usage.stop(0.0)
        await self._redis.close()
        self.workers.close()


def ask(target: str = "/", method: str = "GET", **fields: str) -> Request:
    """A request; underscores in the names of fields stand for dashes."""
    return Request(method, target, Headers({name.replace("_", "-"): value for name, value in fields.items()}))


async def _no_upstream(_request: Request, upstream: str) -> Response:
    raise LookupError(upstream)
