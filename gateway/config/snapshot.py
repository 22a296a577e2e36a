"""Snapshot: a configuration as it was read once, for every process of a node to make its own of it.

Environment, includes and secrets are read by the supervisor alone, so what its processes run is the same, in those that
are started later too. A snapshot is memory with a file descriptor, which processes inherit or are sent: it has no name
and no place on a disk, so there is nothing to clean up and nothing to be found by others. It is JSON because a YAML
parser written in Python would hold up the requests of a process that is at work.
"""

from __future__ import annotations

import fcntl
import json
import os
from typing import Any, Final

from gateway.config.source import Place, Source, Steps

_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class Snapshot:
    """What was read, behind a `descriptor` that whoever has it can read and nobody can change."""

    def __init__(self, source: Source) -> None:
        document = {
            "value": source.value,
            "written": list(source.written.items()),
            "values": list(source.values.items()),
            "keys": list(source.keys.items()),
        }
        self.descriptor = os.memfd_create("tallygate-configuration", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with open(self.descriptor, "w", encoding="ascii", closefd=False) as file:
            json.dump(document, file)
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEALS)

    def close(self) -> None:
        """Closes our descriptor; processes that have one of their own can still read it. Idempotent."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def read_snapshot(descriptor: int) -> Source:
    """What was read, as the reader of the configuration told it. Does not move or close the descriptor."""
    document = json.loads(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
    source = Source("")
    source.value = document["value"]
    source.written = {_steps(steps): text for steps, text in document["written"]}
    source.values = {_steps(steps): Place(*place) for steps, place in document["values"]}
    source.keys = {_steps(steps): Place(*place) for steps, place in document["keys"]}
    return source


def _steps(written: list[Any]) -> Steps:
    return tuple(written)
