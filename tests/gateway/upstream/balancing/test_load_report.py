"""Load reports: what targets say in ORCA's text form, and nothing that they should not be able to say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.balancing.load_report import utilization


@pytest.mark.parametrize(
    ("report", "busy"),
    [
        ("TEXT cpu_utilization=0.3", 0.3),
        ("TEXT cpu_utilization=0.3,mem_utilization=0.8,rps_fractional=10.0,eps=1", 0.3),
        ("TEXT cpu_utilization=0.3, application_utilization=0.8, named_metrics.queue=4", 0.8),
        ("TEXT application_utilization=1.25", 1.25),
        ("TEXT cpu_utilization=0.5,application_utilization=0", 0.5),
    ],
)
def test_a_report_says_how_busy_its_target_is(report: str, busy: float):
    assert utilization(report) == busy


@pytest.mark.parametrize(
    "report",
    [
        "",
        "TEXT",
        "TEXT ",
        "TEXT mem_utilization=0.3",
        "TEXT cpu_utilization=0",
        "TEXT cpu_utilization=nan",
        "TEXT cpu_utilization=-1",
        "TEXT cpu_utilization=1e999",
        "TEXT cpu_utilization=" + "9" * 500,
        "TEXT cpu_utilization",
        'JSON {"cpu_utilization": 0.3}',
        "BIN CZqZmZmZmbk=",
        "TEXT " + "a=1," * 1000 + "cpu_utilization=0.3",
    ],
)
def test_what_is_no_report_says_nothing(report: str):
    assert utilization(report) is None


@given(st.text(max_size=30))
def test_nothing_is_too_odd_to_be_read(report: str):
    busy = utilization("TEXT cpu_utilization=" + report)
    assert busy is None or 0 < busy < 1e7
