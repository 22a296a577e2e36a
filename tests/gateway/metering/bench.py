"""Bench: a journal under test, and what it hands on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from gateway.clock import Clock
from gateway.metering.directory import Directory
from gateway.metering.event import UsageEvent, decode_event, encode_event
from gateway.metering.journal import Journal, JournalOptions
from gateway.metering.segment import (
    FINAL,
    LARGEST_PAYLOAD,
    LARGEST_RECORD,
    Record,
    Segment,
    SegmentReader,
)
from gateway.metrics import Metrics
from tests.gateway.metering.conftest import MakeEvent

SEGMENT = 64 * 1024
PER_SEGMENT = SEGMENT // LARGEST_RECORD


class Bench:
    """A journal and all that it tells others."""

    def __init__(self, root: Path, *, clock: Clock, budget: int = 8 * SEGMENT, **options: Any) -> None:
        self.options = JournalOptions(directory=str(root), budget=budget, segment=SEGMENT, **options)
        self.directory = Directory(root, limit=self.options.limit)
        self.boot = self.directory.claim("b" * 16)
        self.metrics = Metrics(None)
        self.shipped: list[tuple[str, int, bytes]] = []
        self.closed: list[Segment] = []
        self.journal = Journal(
            self.options,
            boot=self.boot,
            clock=clock,
            metrics=self.metrics,
            ship=lambda segment, number, organization, payload: self.shipped.append((segment.name, number, payload)),
            closed=self.closed.append,
        )

    @property
    def segment(self) -> Segment:
        return self.journal._writer.segment

    def files(self) -> list[Path]:
        return sorted(self.directory.root.glob("*/*.segment"))

    def records(self) -> list[Record]:
        return [record for path in self.files() for record in SegmentReader(path)]

    def events(self, kind: int = FINAL) -> list[UsageEvent]:
        return [decode_event(record.payload) for record in self.records() if record.kind == kind]

    def write(self, event: UsageEvent) -> asyncio.Future[None] | None:
        self.journal.reserve()
        return self.journal.append(event)


def large(make_event: MakeEvent, payload_bytes: int = LARGEST_PAYLOAD) -> UsageEvent:
    """An event that takes exactly so many bytes packed (a few less where there are less than 400)."""
    rest = len(encode_event(make_event(route="r" * 300))) - 300
    return make_event(route="r" * (payload_bytes - rest))
