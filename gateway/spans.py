"""Spans: what is traced, on its way to a collector, in the OpenTelemetry protocol (OTLP/HTTP, as JSON).

The collector is an upstream like any other: its pool, deadlines, TLS and balancing hold here too, and no library is
needed. A request only leaves its span in a queue; a task sends them in batches. What a slow or absent collector does
not take is dropped and counted, never waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Self

import msgspec
from pydantic import Field, model_validator

from gateway.background import Background
from gateway.body import Body
from gateway.exchange import Request, Response
from gateway.header_options import FieldValue, RequestFieldName
from gateway.headers import Headers
from gateway.metrics import Metrics
from gateway.options import Duration, Options, UpstreamName

RETRIED: Final = frozenset({429, 502, 503, 504})
ATTEMPTS: Final = 5
LONGEST_PAUSE: Final = 30.0
"""Seconds between two attempts, also where the collector asks for more."""
_LARGEST_REPLY: Final = 64 * 1024

# An ExportTraceServiceRequest around its spans.
_BEFORE: Final = (
    b'{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":%b}}]},'
    b'"scopeSpans":[{"scope":{"name":"tallygate"},"spans":['
)
_AFTER: Final = b"]}]}]}"

_log: Final = logging.getLogger(__name__)


class ExportOptions(Options):
    """The collector that takes spans, by OTLP/HTTP in JSON."""

    upstream: UpstreamName
    """The upstream that is the collector; its targets usually listen on port 4318."""
    path: str = Field(default="/v1/traces", pattern=r"^/[!-~]*$")
    """Where it takes spans."""
    headers: dict[RequestFieldName, FieldValue] = {}
    """Header fields of each batch, such as the collector's API key."""
    service: str = "tallygate"
    """The name of this service in traces (`service.name`)."""
    queue: int = Field(default=2048, ge=1)
    """Spans of one process that may wait to be sent; further ones are dropped."""
    batch: int = Field(default=512, ge=1)
    """Spans that are sent at once."""
    interval: Duration = Field(default=1.0, gt=0)
    """How long a span waits at most for the others of its batch."""
    timeout: Duration = Field(default=10.0, gt=0)
    """How long the collector may take for one batch."""

    @model_validator(mode="after")
    def _a_batch_fits(self) -> Self:
        if self.batch > self.queue:
            raise ValueError("batch must not be larger than queue")
        return self


class _PartialSuccess(msgspec.Struct, rename="camel"):
    rejected_spans: int | str = 0  # protobuf's JSON writes 64-bit numbers as text, and reads both


class _Reply(msgspec.Struct, rename="camel"):
    partial_success: _PartialSuccess | None = None


_decode: Final = msgspec.json.Decoder(_Reply).decode


class SpanSink:
    """The spans of one process on their way to one collector. `write` never waits."""

    def __init__(
        self, options: ExportOptions, *, forward: Callable[[Request, str], Awaitable[Response]], metrics: Metrics
    ) -> None:
        """`forward(request, upstream)` calls an upstream; it raises a Problem if there is no response."""
        self.options = options
        self._forward = forward
        self._waiting: deque[bytes] = deque()
        self._sending = 0
        self._enough = asyncio.Event()
        self._stopping = asyncio.Event()
        self._troubled = False
        self._task: asyncio.Task[None] | None = None
        self._before = _BEFORE % msgspec.json.encode(options.service)
        self._queued = metrics.gauge("tallygate_spans_waiting", "Spans that wait to be sent.")
        self._sent = metrics.counter("tallygate_spans_sent_total", "Spans that the collector took.")
        dropped = metrics.counter("tallygate_spans_dropped_total", "Spans that were not sent, by reason.", ("reason",))
        self._full = dropped.labels("queue_full")
        self._unsent = dropped.labels("unsent")
        self._rejected = dropped.labels("rejected")

    def start(self, background: Background) -> None:
        """Begin to send."""
        self._task = background.start(self._run(), "spans")

    async def stop(self, deadline_seconds: float) -> None:
        """Send what waits, for at most so long; the rest is dropped and counted."""
        self._stopping.set()
        self._enough.set()
        task, self._task = self._task, None
        if task is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(deadline_seconds):
                    await task
        self._unsent.inc(self._sending + len(self._waiting))
        self._sending = 0
        self._waiting.clear()

    def write(self, span: bytes) -> None:
        """Add a span (as OTLP JSON), unless too many are waiting."""
        waiting = self._waiting
        if len(waiting) >= self.options.queue:
            self._full.inc()
            return
        waiting.append(span)
        if len(waiting) == self.options.batch:
            self._enough.set()

    async def _run(self) -> None:
        while not self._stopping.is_set():
            await _at_most(self.options.interval, self._enough)
            self._enough.clear()
            self._queued.set(len(self._waiting))
            await self._send_batch()
            while len(self._waiting) >= self.options.batch:
                await self._send_batch()
        while self._waiting:
            await self._send_batch()

    async def _send_batch(self) -> None:
        waiting = self._waiting
        self._sending = count = min(len(waiting), self.options.batch)
        if not count:
            return
        spans = b",".join([waiting.popleft() for _ in range(count)])
        body = b"".join((self._before, spans, _AFTER))
        for attempt in range(ATTEMPTS):
            pause = await self._attempt(body, count)
            if pause is None:
                break
            if self._stopping.is_set():
                self._unsent.inc(count)
                break
            # Full jitter: processes that failed together do not come back together.
            pause = pause or random.uniform(0.0, 2.0**attempt)  # noqa: S311 - nothing secret
            await _at_most(min(pause, LONGEST_PAUSE), self._stopping)
        else:
            self._unsent.inc(count)
        self._sending = 0

    async def _attempt(self, body: bytes, count: int) -> float | None:
        """Offer a batch; None if that was that, or the seconds that the collector asks for before the next attempt."""
        try:
            async with asyncio.timeout(self.options.timeout):
                response = await self._forward(self._request(body), self.options.upstream)
                reply = response.body if isinstance(response.body, bytes) else await response.body.read(_LARGEST_REPLY)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the spans are still here
            self._complain(f"no answer: {str(error) or type(error).__name__}")
            return 0.0
        if response.status in RETRIED:
            self._complain(f"status {response.status}")
            return _asked_pause(response)
        if response.status != 200:
            self._complain(f"status {response.status}: spans are not taken")
            self._rejected.inc(count)
            return None
        rejected = min(_rejected(reply), count)
        self._rejected.inc(rejected)
        self._sent.inc(count - rejected)
        self._complain(f"{rejected} spans of a batch were rejected" if rejected else "")
        return None

    def _request(self, body: bytes) -> Request:
        payload = Body(length=len(body))
        payload.feed(body)
        payload.finish()
        fields = {"Content-Type": "application/json", **self.options.headers}
        return Request("POST", self.options.path, Headers(fields), payload)

    def _complain(self, trouble: str) -> None:
        """Log the first of several troubles in a row, and that they are over."""
        if trouble and not self._troubled:
            _log.warning("the collector of spans, upstream %s: %s", self.options.upstream, trouble)
        elif self._troubled and not trouble:
            _log.info("the collector of spans, upstream %s, takes spans again", self.options.upstream)
        self._troubled = bool(trouble)


class SpanSinks:
    """The ways to all collectors that plugins ask for."""

    def __init__(self, forward: Callable[[Request, str], Awaitable[Response]], metrics: Metrics) -> None:
        self._forward = forward
        self._metrics = metrics
        self._sinks: list[SpanSink] = []

    def to(self, options: ExportOptions) -> SpanSink:
        """The way to this collector: the same one for all that ask alike."""
        for sink in self._sinks:
            if sink.options == options:
                return sink
        self._sinks.append(SpanSink(options, forward=self._forward, metrics=self._metrics))
        return self._sinks[-1]

    def start(self, background: Background) -> None:
        """Begin to send."""
        for sink in self._sinks:
            sink.start(background)

    async def stop(self, deadline_seconds: float) -> None:
        """Send what waits, for at most so long."""
        await asyncio.gather(*[sink.stop(deadline_seconds) for sink in self._sinks])


async def _at_most(seconds: float, event: asyncio.Event) -> None:
    """Wait for the event, but no longer than this."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _asked_pause(response: Response) -> float:
    """Seconds of Retry-After; 0 if there is none, or a date."""
    asked = response.headers.get("retry-after") or ""
    return float(asked) if asked.isascii() and asked.isdigit() else 0.0


def _rejected(reply: bytes) -> int:
    """How many spans of a batch the collector says that it did not take; 0 if it says nothing that can be read."""
    try:
        partial = _decode(reply).partial_success
        return max(0, int(partial.rejected_spans)) if partial is not None else 0
    except (msgspec.MsgspecError, ValueError):
        return 0
