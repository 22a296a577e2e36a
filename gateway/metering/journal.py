"""Journal: an append-only file per process; an event is in it before the last byte of its answer leaves."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.options import Options, Size


class JournalOptions(Options):
    """Where usage is written down first, and how much of it may wait there."""

    directory: str = "var/journal"
    """Directory of the segments; on a disk of this machine."""
    sync: Literal["os", "disk"] = "os"
    """`os` survives the death of any process; `disk` survives a power cut too, for some milliseconds of latency."""
    budget: Size = 2 * 2**30
    """Disk space of all segments of this node."""
    segment: Size = Field(default=8 * 2**20, ge=64 * 1024)
    """Size of one segment; its space is allocated when it is opened."""
    when_full: Literal["refuse", "second_mark"] = "refuse"
    """At the budget: `refuse` requests that could not be recorded (503), or go on to the `second_mark` and refuse there."""
    second_mark: Size = 4 * 2**30
    """The disk space at which `second_mark` refuses."""
