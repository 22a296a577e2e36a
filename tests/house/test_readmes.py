"""READMEs: one in every folder that has more to say than its files, no dead links, and code blocks that run.

A fenced `sh` block after the comment `<!-- runs -->` is executed, in the root of the checkout, exactly as it stands.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.tree import ROOT, files, text

FOLDERS = ["bin", "benchmarks", "config", "demo", "gateway/billing", "gateway/metering", "plugins", "tests"]
PACKAGES = ("admin", "cli", "node", "edge", "config", "control", "downstream")
MAPPED = ["gateway", *(f"gateway/{package}" for package in PACKAGES)]
RUNNABLE = re.compile(r"^<!-- runs -->\n+```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def markdown() -> list[Path]:
    return [path for path in files() if path.suffix == ".md"]


def runnable() -> list[tuple[Path, str]]:
    return [(path, block) for path in markdown() for block in RUNNABLE.findall(text(path))]


@pytest.mark.parametrize("folder", [".", *FOLDERS, *MAPPED])
def test_a_folder_explains_itself(folder):
    assert (ROOT / folder / "README.md").is_file()


@pytest.mark.parametrize("path", markdown(), ids=str)
def test_links_lead_somewhere(path):
    prose = re.sub(r"^```.*?^```$", "", text(path), flags=re.MULTILINE | re.DOTALL)
    dead = []
    for target in LINK.findall(prose):
        place, _, _ = target.partition("#")
        if place and not re.match(r"[a-z]+:", place) and not (ROOT / path.parent / place).exists():
            dead.append(target)
    assert dead == []


@pytest.mark.parametrize("path", markdown(), ids=str)
def test_files_that_are_named_exist(path):
    """`gateway/…`, `plugins/…` and the like in backticks are real files."""
    named = re.findall(r"`((?:gateway|plugins|benchmarks|tests|config|demo|bin)/[\w./-]+\w)`", text(path))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_readme_has_blocks_that_run():
    assert [path for path, _ in runnable() if path == Path("README.md")]


@pytest.mark.parametrize(("path", "block"), runnable(), ids=lambda value: str(value).strip().split("\n")[0])
def test_code_blocks_run(path, block):
    """Each in a shell of its own that stops at the first failure, with this environment's programs on PATH."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-eu"], input=block, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{path}:\n{block}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("folder", MAPPED)
def test_the_map_of_a_package_is_whole(folder):
    """It names every file and folder of the package, and none that is gone."""
    inside = [path.relative_to(folder).parts for path in files() if path.is_relative_to(folder)]
    here = {parts[0] + ("/" if len(parts) > 1 else "") for parts in inside}
    table = "".join(line for line in text(Path(folder, "README.md")).splitlines(keepends=True) if line.startswith("|"))
    named = {"".join(pair) for pair in re.findall(r"`(\w+\.(?:py|sql)|\w+/)`|\[(\w+/)\]", table)}
    assert named == here - {"README.md", "__init__.py", "py.typed"}
