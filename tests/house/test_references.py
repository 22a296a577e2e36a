"""What operators and customers look up is in the references: options, problems, metrics; and nothing that is gone."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator

import gateway
import plugins
from gateway import problem, reference
from tests.house.tree import ROOT, product, text, tree

METRIC_KINDS = {"counter", "gauge", "histogram"}


def rows(name: str) -> list[list[str]]:
    """The rows of all tables in a Markdown file: cells without their backticks, headings left out."""
    lines = (ROOT / "config" / name).read_text().splitlines()
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("| `")]
    return [[cell.strip().strip("`") for cell in row] for row in cells]


def problems() -> list[type[problem.Problem]]:
    """Every problem of the gateway and its plugins, and the plain one that stands for a bug."""
    for package in (gateway, plugins):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    return [kind for kind in descent(problem.Problem) if kind.__module__.split(".")[0] in ("gateway", "plugins")]


def descent(kind: type[problem.Problem]) -> Iterator[type[problem.Problem]]:
    yield kind
    for child in kind.__subclasses__():
        yield from descent(child)


def metrics() -> dict[str, tuple[str, str]]:
    """Every metric that is made in the code: name to kind and labels, as `counter("name", "doc", ("a", "b"))` says."""
    found = {}
    for path in product():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METRIC_KINDS:
                constants = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
                if constants and isinstance(constants[0], str) and constants[0].startswith("tallygate_"):
                    found[constants[0]] = (node.func.attr, ", ".join(labels(node)))
    return found


def labels(call: ast.Call) -> list[str]:
    given = [*call.args[2:3], *(keyword.value for keyword in call.keywords if keyword.arg == "labels")]
    return [item.value for each in given if isinstance(each, ast.Tuple | ast.List) for item in each.elts]


def test_generated_files_are_up_to_date():
    assert reference.outdated(ROOT / "config") == [], "run `tallygate reference`"


def test_problems_are_distinct_and_say_what_is_wrong():
    kinds = problems()
    slugs = [kind.slug for kind in kinds]
    assert sorted(slugs) == sorted(set(slugs)), "two problems share a slug"
    for kind in kinds:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", kind.slug)
        assert 400 <= kind.status <= 599
        assert kind.__doc__, f"{kind.__name__}: the docstring is the title"
        assert "slug" in vars(kind), f"{kind.__name__} answers with the slug of another problem"


def test_every_problem_is_in_the_reference_and_nothing_else():
    written = {slug: (status, title) for slug, status, title, *_ in rows("problems.md")}
    assert written == {kind.slug: (str(kind.status), kind.title()) for kind in problems()}


def test_every_metric_is_in_the_reference_and_nothing_else():
    written = {name: (kind, names) for name, kind, names, *_ in rows("metrics.md")}
    assert written == metrics()


def test_metrics_are_named_as_prometheus_names_them():
    made = metrics()
    assert made
    for name, (kind, _) in made.items():
        assert re.fullmatch(r"tallygate_[a-z0-9_]+", name)
        assert name.endswith("_total") == (kind == "counter"), f"{name}: counters end in _total, and only they do"
        if kind == "histogram":
            assert name.endswith(("_seconds", "_bytes", "_events")), f"{name}: a histogram names its unit"


def test_every_metric_name_in_the_code_is_made_somewhere():
    """A name that is only read (by the benchmark, by the admin pages) must exist."""
    known = set(metrics())
    used = {name for path in product() for name in re.findall(r'"(tallygate_[a-z0-9_]+)"', text(path))}
    roles = {"tallygate_owner", "tallygate_worker", "tallygate_control", "tallygate_reader"}
    assert used - roles - known == set()
