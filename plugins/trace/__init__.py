"""Continue the caller's trace or begin one, and say it to the upstream (W3C Trace Context)."""

from __future__ import annotations

from typing import Final

from pydantic import Field, field_validator

from gateway.exchange import Exchange, Note
from gateway.headers import Headers
from gateway.options import Rate
from gateway.plugin import Plugin, PluginConfig
from gateway.services import Services
from gateway.spans import ExportOptions
from plugins.trace.context import KEY, RANDOM, SAMPLED, read_parent, with_member
from plugins.trace.span import Ids, span

IDS: Final = Note[Ids]()
_FIELDS: Final = frozenset({"traceparent", "tracestate"})


class Config(PluginConfig):
    """Who decides which requests are sampled, and where their spans go."""

    trust: bool = False
    """Let the caller decide whether its requests are sampled. Otherwise its trace is continued, and `sample` decides:
    an outsider cannot fill the collector."""
    sample: Rate = Field(default=1.0, ge=0, le=1)
    """How many requests are sampled, of those about which no trusted caller has decided."""
    tracestate: str | None = None
    """The key of our own member in `tracestate`, whose value is the span id; without it `tracestate` goes on as it
    came."""
    export: ExportOptions | None = None
    """The collector that takes the spans of sampled requests; without it ids are handed on and nothing is recorded."""

    @field_validator("tracestate")
    @classmethod
    def _is_a_key(cls, value: str | None) -> str | None:
        if value is not None and not KEY.fullmatch(value):
            raise ValueError(f"not a key: {value!r} (write lower-case letters, digits and _ - * / @, no sign first)")
        return value


class Trace(Plugin[Config]):
    """Continues the trace that the caller's `traceparent` names. If there is none, or it is not valid or comes twice, a
    new trace begins, and a `tracestate` is dropped.

    The upstream hears of the gateway's own span as its parent. The id of that span is the second half of the request id
    (without its dashes), and a trace that begins here has the whole of it for its trace id: who knows one of them knows
    the others.
    """

    @classmethod
    def hooks(cls, config: Config | None = None) -> list[str]:
        """Only what is exported has to be looked at when it is over."""
        found = super().hooks(config)
        if config is not None and config.export is None:
            found.remove("on_finish")
        return found

    def __init__(self, config: Config, services: Services) -> None:
        super().__init__(config, services)
        self._trust = config.trust
        self._key = config.tracestate
        # Of the 2**56 values of an id's last 7 bytes those from here on are sampled, and no bytes are above none.
        least = round((1.0 - config.sample) * 2**56)
        self._least = least.to_bytes(7, "big") if least < 2**56 else b"\xff" * 8
        self._sink = services.spans(config.export) if config.export is not None else None

    def on_request(self, exchange: Exchange) -> None:
        headers = exchange.request.headers
        fields = headers.pick(_FIELDS)
        parent = read_parent(fields) if fields else None
        own = exchange.id
        trace_id = own.hex()
        span_id = trace_id[16:]
        if parent is None:
            if fields:
                del headers["traceparent"], headers["tracestate"]
            state = ""
            flags = RANDOM | SAMPLED if own[9:] >= self._least else RANDOM
            headers.add_line("traceparent", f"traceparent: 00-{trace_id}-{span_id}-0{flags}".encode())
        else:
            trace_id = parent.trace_id
            state = parent.state
            # Not by the trace id: it is the caller's, who could choose one that is always sampled.
            sampled = parent.flags & SAMPLED if self._trust else own[9:] >= self._least
            flags = parent.flags & RANDOM | sampled
            headers.set_line("traceparent", f"traceparent: 00-{trace_id}-{span_id}-0{flags}".encode())
            if len(fields) > 1:
                self._pass_on(headers, state, len(fields) - 1)
        if self._key is not None:
            state = with_member(state, self._key, span_id)
            headers.set_line("tracestate", f"tracestate: {state}".encode())
        if self._sink is not None and flags & SAMPLED:
            exchange[IDS] = Ids(trace_id, span_id, parent.span_id if parent is not None else "", flags, state)

    @staticmethod
    def _pass_on(headers: Headers, state: str, count: int) -> None:
        """A `tracestate` in `count` fields goes on as it came, in one field if it came in several, if it is valid."""
        if not state:
            del headers["tracestate"]
        elif count > 1:
            headers["tracestate"] = state

    def on_finish(self, exchange: Exchange) -> None:
        ids = exchange.get(IDS)
        if ids is not None and self._sink is not None:
            self._sink.write(span(exchange, ids))
