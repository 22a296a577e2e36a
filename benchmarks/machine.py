"""The machine: which core does what, how busy each was, and what a process holds in memory. Linux only: reads /proc."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cores:
    """Who runs where. The measured proxy is alone on its core; with four cores everybody is."""

    proxy: frozenset[int]
    origin: frozenset[int]
    load: frozenset[int]
    stores: frozenset[int]

    @property
    def others(self) -> frozenset[int]:
        """Every core but the proxy's."""
        return self.origin | self.load | self.stores

    @property
    def shared(self) -> bool:
        """Whether origin, load and stores get in each other's way: there are fewer than four cores."""
        return bool(self.origin & self.load) or bool(self.load & self.stores)


def share_out(available: Iterable[int]) -> Cores:
    """Deal the cores this process may use. Raises ValueError for fewer than two."""
    cores = sorted(available)
    if len(cores) < 2:
        raise ValueError("the benchmark needs two cores at least: one for the proxy, one for everything else")
    proxy, *rest = cores
    origin, load = rest[0], rest[min(1, len(rest) - 1)]
    return Cores(frozenset({proxy}), frozenset({origin}), frozenset({load}), frozenset(rest[2:] or rest[-1:]))


def parse_busy(stat: str) -> dict[int, tuple[int, int]]:
    """From the text of /proc/stat, per core: ticks spent working, ticks in all."""
    found = {}
    for match in re.finditer(r"^cpu(\d+) (.+)$", stat, re.MULTILINE):
        # user nice system idle iowait irq softirq steal; guest time is part of user already
        ticks = [int(field) for field in match[2].split()[:8]]
        found[int(match[1])] = (sum(ticks) - ticks[3] - ticks[4], sum(ticks))
    return found


class BusyMeter:
    """How busy each core was since this meter was made: 0.0 to 1.0."""

    def __init__(self) -> None:
        self._start = parse_busy(Path("/proc/stat").read_text())

    def read(self) -> dict[int, float]:
        shares = {}
        for core, (worked, total) in parse_busy(Path("/proc/stat").read_text()).items():
            worked_before, total_before = self._start.get(core, (0, 0))
            shares[core] = (worked - worked_before) / max(1, total - total_before)
        return shares


def busiest(shares: dict[int, float], cores: Iterable[int]) -> float:
    """The share of the busiest of `cores`."""
    return max(shares[core] for core in cores)


def pin(pid: int, cores: Iterable[int]) -> None:
    """Keep all threads of a process on `cores`."""
    wanted = set(cores)
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), wanted)


def status_field(pid: int, field: str) -> int:
    """A size in /proc/<pid>/status (`VmRSS`, `VmHWM`) in bytes."""
    match = re.search(rf"^{field}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    if match is None:
        raise ProcessLookupError(f"process {pid} has no {field}: it has ended")
    return int(match[1]) * 1024


def worked_seconds(pid: int) -> float:
    """Seconds of CPU that a process has used, in user mode and in the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def resident(pid: int) -> int:
    """Bytes of memory a process holds now."""
    return status_field(pid, "VmRSS")


def peak(pid: int) -> int:
    """The most bytes of memory a process has held, since it started or since `forget_peak`."""
    return status_field(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    """Start the peak anew from what the process holds now (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def children(pid: int) -> list[int]:
    """The processes a process has started and that still run."""
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (thread / "children").read_text().split()]
    return found


def command_line(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")


def description() -> dict[str, Any]:
    """What a reader of the figures should know about the machine they come from."""
    match = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "processor": match[1] if match else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
