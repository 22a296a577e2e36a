"""Vitals: what every process of ours measures of itself: memory, open files, the event loop's lag."""

from __future__ import annotations

import resource
from pathlib import Path

from gateway.background import Background
from gateway.metrics import Metrics

_STATM = Path("/proc/self/statm")
_DESCRIPTORS = Path("/proc/self/fd")
_LAG_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


def watch(background: Background, metrics: Metrics) -> None:
    """Measures until `background` stops. Where there is no /proc, memory is the most it ever was."""
    resident = metrics.gauge("tallygate_process_resident_bytes", "Memory of the process that is in RAM.")
    # Linux 6.2 and later say how many there are; listing thousands would hold up the event loop.
    counted = _DESCRIPTORS.is_dir() and _DESCRIPTORS.stat().st_size > 0
    files = metrics.gauge("tallygate_process_open_files", "Open file descriptors.") if counted else None
    lag = metrics.histogram(
        "tallygate_event_loop_lag_seconds",
        "How late the event loop was, measured ten times a second.",
        bounds=_LAG_BOUNDS,
    )

    def measure() -> None:
        resident.set(resident_bytes())
        if files is not None:
            files.set(_DESCRIPTORS.stat().st_size)

    background.measure_lag(lag.observe)
    background.every(2.0, measure, "vitals", at_once=True)


def resident_bytes() -> int:
    """Bytes of this process that are in RAM."""
    try:
        return int(_STATM.read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
