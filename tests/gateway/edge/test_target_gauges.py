"""Target gauges: the last report is what is exported, and nothing of what it does not name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.edge.target_gauges import TargetGauges
from gateway.exposition import Exposition
from gateway.metrics import Metrics
from gateway.readings import Source
from gateway.upstream.report import TargetReport, UpstreamReport


def exported(path: Path) -> dict[str, float]:
    lines = Exposition(lambda: [Source("0", path, True)]).render().decode().splitlines()
    found = [line.rpartition(" ") for line in lines if line.startswith("tallygate_target_")]
    return {
        name.partition('{process="0",')[0] + "{" + name.partition('",')[2]: float(value) for name, _, value in found
    }


def of(name: str, **more: Any) -> TargetReport:
    return TargetReport(**{"name": name, "weight": 1, "health": "healthy"} | more)


def test_the_last_report_is_exported(tmp_path: Path) -> None:
    gauges = TargetGauges(Metrics(tmp_path / "cells"))
    gauges.show([UpstreamReport("u", [of("a", in_flight=2, latency_seconds=0.5), of("b", health="ejected")])])
    assert exported(tmp_path / "cells") == {
        'tallygate_target_available{target="a",upstream="u"}': 1.0,
        'tallygate_target_available{target="b",upstream="u"}': 0.0,
        'tallygate_target_in_flight{target="a",upstream="u"}': 2.0,
        'tallygate_target_in_flight{target="b",upstream="u"}': 0.0,
        'tallygate_target_latency_seconds{target="a",upstream="u"}': 0.5,
    }
    gauges.show([UpstreamReport("u", [of("b")])])
    assert exported(tmp_path / "cells") == {
        'tallygate_target_available{target="b",upstream="u"}': 1.0,
        'tallygate_target_in_flight{target="b",upstream="u"}': 0.0,
    }
    gauges.show([])
    assert exported(tmp_path / "cells") == {}


def test_what_is_available_is_what_new_calls_are_sent_to(tmp_path: Path) -> None:
    gauges = TargetGauges(Metrics(tmp_path / "cells"))
    targets = [
        of("ejected", health="ejected"),
        of("unhealthy", health="unhealthy"),
        of("unknown", health="unknown"),
        of("draining", health="draining", weight=0),
    ]

    def available() -> list[str]:
        found = exported(tmp_path / "cells")
        return [
            target.name
            for target in targets
            if found[f'tallygate_target_available{{target="{target.name}",upstream="u"}}']
        ]

    gauges.show([UpstreamReport("u", targets)])
    assert available() == ["unknown"]
    gauges.show([UpstreamReport("u", targets, panics=True)])
    assert available() == ["ejected", "unhealthy", "unknown"]
