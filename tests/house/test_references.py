"""What operators and customers look up is in the references: options, problems, metrics; and nothing that is gone."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from gateway.config import reference
from tests.house.pages import documents, metrics, problems
from tests.house.tree import ROOT, product, text

DATABASE_ROLES = {"tallygate_owner", "tallygate_worker", "tallygate_control", "tallygate_publisher", "tallygate_reader"}
CHANNELS = {"tallygate_outbox"}


def test_the_reference_of_options_is_up_to_date():
    assert reference.outdated(ROOT / "config") == [], "run `tallygate reference`"


@pytest.mark.parametrize("place", ["config/problems.md", "config/metrics.md"])
def test_a_page_is_up_to_date(place):
    assert (ROOT / place).read_text() == documents()[place], "run `python -m tests.house.pages`"


def test_problems_are_distinct_and_say_what_is_wrong():
    kinds = problems()
    assert [slug for slug, times in Counter(kind.slug for kind in kinds).items() if times > 1] == []
    for kind in kinds:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", kind.slug)
        assert 400 <= kind.status <= 599
        assert kind.__doc__, f"{kind.__name__}: the docstring is the title"


def test_metrics_are_named_as_prometheus_names_them():
    made = metrics()
    assert made
    for each in made:
        assert re.fullmatch(r"tallygate_[a-z0-9_]+", each.name)
        assert each.name.endswith("_total") == (each.kind == "counter"), (
            f"{each.name}: counters end in _total, only they"
        )
        assert each.text.endswith("."), f"{each.name}: the text is a sentence"
        if each.kind == "histogram":
            assert each.name.endswith(("_seconds", "_bytes", "_events")), f"{each.name}: a histogram names its unit"


def test_a_metric_is_made_alike_wherever_it_is_made():
    shapes = {(each.name, each.kind, each.text, each.labels) for each in metrics()}
    assert [name for name, times in Counter(shape[0] for shape in shapes).items() if times > 1] == []


def test_every_metric_that_is_named_is_made():
    """A name that is only read, by the benchmark or in a README, must exist."""
    made = {each.name for each in metrics()}
    named = {name for path in product() for name in re.findall(r"\"(tallygate_[a-z0-9_]+)\"", text(path))}
    assert named - DATABASE_ROLES - CHANNELS - made == set()
