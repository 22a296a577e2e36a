"""What the main benchmark tells: a table for the reader, latest.json for programs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from benchmarks import tools
from benchmarks.machine import Cores, description
from benchmarks.throughput import ORIGIN, Measured

LATEST: Final = Path(__file__).with_name("latest.json")
MEBIBYTE: Final = 2**20


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns: the first one to the left, the others to the right. The first row is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def saturation_table(measured: Sequence[Measured], peaks: Mapping[str, int]) -> str:
    """Rates at saturation, how busy the cores were, and the most memory the proxy held."""
    rows: list[Sequence[str]] = [
        ("at saturation", "requests/s", "min", "max", "proxy", "origin", "load", "stores", "peak memory", "invalid")
    ]
    for each in measured:
        rates = [each_round.load.rate for each_round in each.rounds]
        rows.append(
            (
                each.case.name,
                f"{each.rate:,.0f}",
                f"{min(rates):,.0f}",
                f"{max(rates):,.0f}",
                *(f"{each.median(share):.0%}" for share in ("proxy_busy", "origin_busy", "load_busy", "stores_busy")),
                f"{peaks[each.case.name] / MEBIBYTE:.0f} MiB",
                str(each.invalid),
            )
        )
    return table(rows)


def latency_table(measured: Sequence[Measured], rate: float) -> str:
    """Latencies at the same offered load, and what each adds to the origin's own."""
    origin = next(each for each in measured if each.case.name == ORIGIN)
    rows: list[Sequence[str]] = [(f"at {rate:,.0f} requests/s", "p50 ms", "p99 ms", "added p50 ms", "added p99 ms")]
    rows += [
        (
            each.case.name,
            *(f"{value:.3f}" for value in (each.p50, each.p99, each.p50 - origin.p50, each.p99 - origin.p99)),
        )
        for each in measured
    ]
    return table(rows)


def document(
    measured: Sequence[Measured], cores: Cores, ratios: Mapping[str, float], rate: float, peaks: Mapping[str, int]
) -> dict[str, Any]:
    """Everything that was measured, as it is written to latest.json."""
    origin = next(each for each in measured if each.case.name == ORIGIN)
    cases = {
        each.case.name: {
            "requests_per_second": round(each.rate),
            "rounds": [asdict(made) for made in each.rounds],
            "invalid_rounds": each.invalid,
            "peak_memory_bytes": peaks.get(each.case.name),
            "latency_milliseconds": {
                "p50": round(each.p50, 3),
                "p99": round(each.p99, 3),
                "added_p50": round(each.p50 - origin.p50, 3),
                "added_p99": round(each.p99 - origin.p99, 3),
            }
            if each.latencies
            else None,
        }
        if each.rounds
        else {"latency_milliseconds": {"p50": round(each.p50, 3), "p99": round(each.p99, 3)}}
        for each in measured
    }
    return {
        "ratios": dict(ratios),
        "offered_requests_per_second": round(rate),
        "cases": cases,
        "cores_shared": cores.shared,
        "machine": {**description(), "nginx": _nginx_version()},
    }


def write(content: Mapping[str, Any]) -> None:
    LATEST.write_text(json.dumps(content, indent=2) + "\n")


def _nginx_version() -> str:
    return subprocess.run([tools.nginx(), "-v"], capture_output=True, text=True, check=False).stderr.strip()
