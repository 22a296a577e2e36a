"""The files of this checkout, as the house rules look at them."""

from __future__ import annotations

import ast
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = ("gateway", "plugins", "demo", "benchmarks")


@cache
def files() -> list[Path]:
    """Every file that is committed or about to be, relative to the root."""
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(path for name in listed.stdout.split("\0") if name and (ROOT / (path := Path(name))).is_file())


@cache
def text(path: Path) -> str:
    """The content of a file, or nothing where it is not text."""
    try:
        return (ROOT / path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(text(path), filename=str(path))


def python(*folders: str) -> list[Path]:
    """The Python files below some folders of the root."""
    return [path for path in files() if path.suffix == ".py" and path.parts[0] in folders]


def product() -> list[Path]:
    """The Python files of the product and of what comes with it, tests excepted."""
    return python(*PACKAGES)
