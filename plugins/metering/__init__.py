"""Write down what was used, before the last byte of the answer leaves.

Room in the journal is reserved when the request is admitted, so nothing is served that could not be recorded. A call
whose cost only its answer tells is written down as started first, and so is a WebSocket: should the process die before
the end, an estimate takes its place.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec
from pydantic import Field

from gateway.coding import ask_upstream_for
from gateway.exchange import Exchange, Note, Response
from gateway.list_options import each_once
from gateway.metering.event import VERSION, Outcome, UsageEvent
from gateway.options import Size, Statuses, parse_statuses
from gateway.plugin import AUTHENTICATION, METERING, Plugin, PluginConfig
from gateway.services import Services
from plugins.metering.meters import HeaderMeter, JsonMeter, Meter
from plugins.metering.reading import JsonReading, whole_number

_GZIP: Final = re.compile(r"(?i)\bgzip\b(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))")
MOST_METERS: Final = 24
"""On one route: with names of any length the event fits into a record of the journal."""
RENEW_SECONDS: Final = 10.0
"""How often what a WebSocket has come to is written down: so much of it may be lost with its process."""


class Config(PluginConfig):
    """What is counted, and for which answers."""

    meters: Annotated[list[Meter], each_once("meter")] = Field(min_length=1, max_length=MOST_METERS)
    """`requests` counts 1, `bytes_*` the payload, `messages_*` those of a WebSocket; others come from the answer."""
    on_status: Statuses = parse_statuses("200-399")
    """Answers with these statuses are booked: a status, a range such as `200-399`, or a list of both.
    A WebSocket (101) always is."""
    max_json: Size = Field(default=2**20, gt=0)
    """The largest JSON answer that is read for a meter; beyond it the estimate is booked."""


class _Tally:
    """What one exchange has come to so far. Most come to no more than one event: the rest stands in the class."""

    booked: dict[str, int] | None = None
    """The quantities of the event that was written."""
    started = False
    reading: JsonReading | None = None


TALLY: Final = Note[_Tally]()


def _ask_for_what_can_be_read(exchange: Exchange) -> None:
    """A client must not choose what it pays by choosing a coding we do not read, or a part without the number."""
    headers = exchange.request.headers
    ask_upstream_for(exchange, "gzip" if _GZIP.search(headers.get("accept-encoding") or "") else "identity")
    for name in ("range", "if-range"):
        del headers[name]


class Metering(Plugin[Config]):
    """One usage event per exchange of a known consumer that used something, whatever happens to it."""

    guards = METERING
    behind = AUTHENTICATION

    @classmethod
    def hooks(cls, config: Config | None = None) -> list[str]:
        """The response itself only a meter that reads JSON wants to see."""
        found = super().hooks(config)
        if config is not None and not any(isinstance(meter, JsonMeter) for meter in config.meters):
            found = [hook for hook in found if hook not in ("on_response", "on_chunk")]
        return found

    def __init__(self, config: Config, services: Services) -> None:
        super().__init__(config, services)
        self._journal = services.journal
        self._clock = services.clock
        self._nanos = services.clock.nanos
        self._statuses = config.on_status | {101}
        self._plain = [meter for meter in config.meters if isinstance(meter, str)]
        self._from_header = [meter for meter in config.meters if isinstance(meter, HeaderMeter)]
        self._from_json = [(m, tuple(m.path.split("."))) for m in config.meters if isinstance(m, JsonMeter)]
        self._sessions: dict[Exchange, dict[str, int]] = {}  # open WebSockets, and what is written down of them
        self._renews = False
        self._told_by_answer = bool(self._from_header or self._from_json)
        self._estimates: dict[str, int] = {meter: 1 if meter == "requests" else 0 for meter in self._plain}
        self._estimates |= {meter.name: meter.estimate for meter in self._from_header}
        self._estimates |= {meter.name: meter.estimate for meter, _ in self._from_json}
        self._unreadable = services.metrics.counter(
            "tallygate_meter_unreadable_total",
            "Answers without a readable quantity, booked with the estimate.",
            ("route", "meter"),
        )

    def on_request(self, exchange: Exchange) -> None:
        if exchange.consumer is None:
            return  # nobody to bill
        self._journal.reserve()
        if self._from_json:
            _ask_for_what_can_be_read(exchange)
        tally = exchange[TALLY] = _Tally()
        if self._told_by_answer:
            self._start(exchange, tally)

    def on_response(self, exchange: Exchange, response: Response) -> None:
        if response.status in self._statuses:
            tally = exchange.get(TALLY)
            if tally is not None:
                tally.reading = JsonReading(response.headers, self.config.max_json)

    def on_upgrade(self, exchange: Exchange) -> None:
        tally = exchange.get(TALLY)
        if tally is not None:
            if not tally.started:
                self._start(exchange, tally)
            self._sessions[exchange] = self._estimates
            if not self._renews:
                self._renews = True
                self.services.background.every(RENEW_SECONDS, self._renew, "usage of WebSockets")

    def on_chunk(self, exchange: Exchange, chunk: bytes, last: bool) -> bytes:
        tally = exchange.get(TALLY)
        if tally is not None and tally.reading is not None and chunk:
            tally.reading.add(chunk)
        return chunk

    def on_sending(self, exchange: Exchange, size: int, last: bool) -> None:
        tally = exchange.get(TALLY)
        if tally is not None and tally.booked is None and (last or exchange.until_close):
            # The answer is about to be whole; or, where only the end of the connection ends it, about to begin.
            quantities: dict[str, int] = {}
            if exchange.response is not None and exchange.response.status in self._statuses:
                whole = exchange.outcome == "ok"
                quantities = self._quantities(exchange, tally, size if whole and last else 0, whole, last)
            self._book(exchange, tally, exchange.outcome, quantities)

    def on_finish(self, exchange: Exchange) -> None:
        tally = exchange.get(TALLY)
        if tally is None:
            return
        self._sessions.pop(exchange, None)
        if tally.booked is None:
            outcome: Outcome = "client_gone" if exchange.outcome == "ok" else exchange.outcome
            self._book(exchange, tally, outcome, self._quantities(exchange, tally, 0, False, True))
        elif exchange.until_close:
            self._amend(exchange, tally)

    def _start(self, exchange: Exchange, tally: _Tally) -> None:
        """Write down that a use has begun whose end may be long in coming. Raises JournalFull."""
        now = self._clock.micros()
        self._journal.start(self._event(exchange, "estimated", self._estimates, now, exchange.id))
        tally.started = True

    def _renew(self) -> None:
        """Write down what WebSockets have come to so far, those on which something was said."""
        counted = [name for name in self._plain if name != "requests"]
        for exchange, known in self._sessions.items():
            quantities = known | {name: getattr(exchange, name) for name in counted}
            if quantities != known:
                self._sessions[exchange] = quantities
                now = self._clock.micros()
                self._journal.renew(self._event(exchange, "estimated", quantities, now, exchange.id))

    def _book(self, exchange: Exchange, tally: _Tally, outcome: Outcome, quantities: dict[str, int]) -> None:
        """Write the event; if nothing was used, only where a started record waits for its end."""
        if exchange.billed != "nothing":
            quantities = {name: n for name, n in quantities.items() if exchange.billed == "use" and name in self._plain}
        tally.booked = quantities
        if tally.started or any(quantities.values()):
            event = self._event(exchange, outcome, quantities or {"requests": 0}, self._nanos() // 1000, exchange.id)
            durable = self._journal.append(event)
            if durable is not None:
                exchange.hold(durable)
        else:
            self._journal.release()

    def _amend(self, exchange: Exchange, tally: _Tally) -> None:
        """What the event could not know yet when it was written, in a second one."""
        booked = tally.booked or {}
        if not any(booked.values()):
            return
        now = self._quantities(exchange, tally, 0, exchange.outcome == "ok", True)
        more = {name: now[name] - booked[name] for name in now if now[name] != booked[name]}
        if more:
            event = self._event(exchange, exchange.outcome, more, self._clock.micros(), self._clock.uuid7())
            amendment = msgspec.structs.replace(event, kind="amend", ref=exchange.id)
            _ = self._journal.append_extra(amendment)

    def _quantities(self, exchange: Exchange, tally: _Tally, leaving: int, whole: bool, told: bool) -> dict[str, int]:
        """The meters' quantities: of an answer that is `whole`, or of what was delivered of it.

        `leaving` is the bytes of the piece that is about to leave; without `told` the end of the answer is still to
        come, and what only it tells is nothing yet. A WebSocket is answered whole as soon as it is one.
        """
        found: dict[str, int] = {}
        whole = whole or exchange.status_sent == 101
        for name in self._plain:
            if name == "requests":
                found[name] = 1 if whole else 0
            elif name == "bytes_out":
                found[name] = exchange.bytes_out + leaving
            elif name == "bytes_in":
                found[name] = exchange.bytes_in if whole or exchange.status_sent else 0
            else:
                found[name] = getattr(exchange, name)
        if not self._told_by_answer:
            return found
        answered = exchange.response is not None and exchange.response.status in self._statuses
        for header_meter in self._from_header:
            found[header_meter.name] = self._said(exchange, header_meter) if answered else 0
        for json_meter, path in self._from_json:
            number = tally.reading.number_at(path) if tally.reading is not None and told else None
            if number is None and answered and told:
                number = json_meter.estimate
                if whole:
                    self._unreadable.labels(exchange.route, json_meter.name).inc()
            found[json_meter.name] = number or 0
        return found

    def _said(self, exchange: Exchange, meter: HeaderMeter) -> int:
        values = exchange.response.headers.getall(meter.header) if exchange.response is not None else []
        text = values[0] if len(values) == 1 else ""
        number = whole_number(int(text)) if text.isascii() and text.isdigit() and len(text) < 20 else None
        if number is None:
            self._unreadable.labels(exchange.route, meter.name).inc()
            return meter.estimate
        return number

    @staticmethod
    def _event(
        exchange: Exchange, outcome: Outcome, quantities: dict[str, int], at: int, event_id: bytes
    ) -> UsageEvent:
        consumer, response = exchange.consumer, exchange.response
        return UsageEvent(  # by place: by name takes four times as long
            VERSION,
            event_id,
            "usage",
            exchange.admitted_at,
            at,
            consumer.organization,
            consumer.subscription,
            consumer.plan_version,
            consumer.key,
            exchange.route,
            exchange.upstream,
            "",
            "",
            response.status if response is not None else 0,
            outcome,
            quantities,
        )
