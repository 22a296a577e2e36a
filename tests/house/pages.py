"""The references of problems and metrics, made from the code: `python -m tests.house.pages` writes them to config/.

A problem's text is its docstring, a metric's is the one it is exported with, so nothing is written down twice. They are
made here rather than in the product because metrics are found by reading its source: they come to life piece by piece,
in several processes, and no single one knows them all.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import gateway
import plugins
from gateway.problem import TYPE_PREFIX, Problem
from tests.house.tree import ROOT, product, tree

KINDS: Final = ("counter", "gauge", "histogram")
WRITTEN_BY: Final = "Written by `python -m tests.house.pages`: to change a text, change it in the code."


@dataclass(frozen=True, slots=True, order=True)
class MetricMade:
    """A metric as the code makes it: `metrics.counter("name", "text", ("label",))`."""

    name: str
    kind: str
    text: str
    labels: tuple[str, ...]
    place: str


def problems() -> list[type[Problem]]:
    """Every problem of the gateway and its plugins, and the plain one that stands for a bug."""
    for package in (gateway, plugins):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    return [kind for kind in _descent(Problem) if kind.__module__.split(".")[0] in ("gateway", "plugins")]


def _descent(kind: type[Problem]) -> Iterator[type[Problem]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _descent(child)


def metrics() -> list[MetricMade]:
    """Every metric that is made in the code."""
    found = set()
    for path in product():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in KINDS:
                texts = [argument.value for argument in node.args[:2] if isinstance(argument, ast.Constant)]
                if len(texts) == 2 and str(texts[0]).startswith("tallygate_"):
                    found.add(MetricMade(texts[0], node.func.attr, texts[1], tuple(_labels(node)), str(path)))
    return sorted(found)


def _labels(call: ast.Call) -> list[str]:
    given = [*call.args[2:3], *(keyword.value for keyword in call.keywords if keyword.arg == "labels")]
    return [item.value for each in given if isinstance(each, ast.Tuple | ast.List) for item in each.elts]


def problems_page() -> str:
    kinds = sorted(problems(), key=lambda kind: (kind.status, kind.slug))
    rows = [f"| `{kind.slug}` | {kind.status} | {' '.join((kind.__doc__ or '').split())} |" for kind in kinds]
    return _page(
        "# Problems",
        f"What the gateway answers when it refuses or fails (RFC 9457, `application/problem+json`). {WRITTEN_BY}",
        f"The `type` of a problem is `{TYPE_PREFIX}` and its slug; `instance` is the id of the request.",
        "\n".join(("| slug | status | what is wrong |", "|---|---|---|", *rows)),
    )


def metrics_page() -> str:
    rows = [f"| `{made.name}` | {made.kind} | {', '.join(made.labels)} | {made.text} |" for made in metrics()]
    return _page(
        "# Metrics",
        f"What `/metrics` of the admin listener exports for Prometheus. {WRITTEN_BY}",
        "Counters and histograms are summed over the processes of a node and survive a process's replacement. A gauge"
        " is shown for each process, with the label `process`.",
        "\n".join(("| metric | kind | labels | meaning |", "|---|---|---|---|", *rows)),
    )


def _page(*paragraphs: str) -> str:
    return "\n\n".join(paragraphs) + "\n"


def documents() -> dict[str, str]:
    """The pages by their place in the checkout."""
    return {"config/problems.md": problems_page(), "config/metrics.md": metrics_page()}


def main() -> None:
    for place, content in documents().items():
        (ROOT / place).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
