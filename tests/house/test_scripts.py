"""The scripts in bin/, and the list of versions that they install."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest

from tests.house.tree import ROOT

SCRIPTS = ["bin/up", "bin/test", "bin/bench", ".ci/run"]


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line) for line in lines), "plain name==version lines"
    return {plain(name): number for name, _, number in (line.partition("==") for line in lines)}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def wanted() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]
    return {plain(re.match(r"[A-Za-z0-9._-]+", line)[0]) for line in lines}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_can_be_run(script):
    path = ROOT / script
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/bin/sh\n")
    assert subprocess.run(["sh", "-n", path], check=False).returncode == 0


def test_ci_runs_what_a_developer_runs():
    lines = (ROOT / ".ci/run").read_text().splitlines()
    assert len(lines) == 2
    assert lines[1].endswith('bin/test"')


def test_without_a_python_the_scripts_say_what_to_do(tmp_path):
    for tool in ("sh", "cat", "cksum", "dirname", "env"):
        (tmp_path / tool).symlink_to(Path("/usr/bin") / tool)
    checkout = tmp_path / "checkout"
    (checkout / "bin").mkdir(parents=True)
    for name in ("bin/test", "bin/environment.sh", "bin/environment.py", "pyproject.toml", "constraints.txt"):
        (checkout / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(
        ["/bin/sh", checkout / "bin/test"], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "needs Python 3.11" in done.stderr
    assert "apt-get install" in done.stderr


def test_an_up_to_date_environment_starts_at_once(tmp_path):
    """With a matching stamp nothing is installed: the script goes straight to its work."""
    checkout = tmp_path / "checkout"
    (checkout / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").symlink_to(sys.executable)
    for name in ("bin/environment.sh", "bin/environment.py", "pyproject.toml", "constraints.txt"):
        (checkout / name).write_bytes((ROOT / name).read_bytes())
    # The installer would fail here: it must not be reached once the stamp is right, and must be before that.
    (checkout / "bin" / "environment.py").write_text("import sys; print(sys.argv[2]); sys.exit(1)\n")
    (checkout / "bin" / "probe").write_text('. "$(dirname -- "$0")/environment.sh"\necho "root is $root"\n')
    first = subprocess.run(["sh", checkout / "bin/probe"], capture_output=True, text=True, check=False)
    assert first.returncode == 1
    (checkout / ".venv" / "stamp").write_text(first.stdout)
    second = subprocess.run(["sh", checkout / "bin/probe"], capture_output=True, text=True, check=False)
    assert (second.returncode, second.stdout) == (0, f"root is {checkout.resolve()}\n")


def test_constraints_cover_what_is_asked_for():
    assert wanted() <= pinned().keys()


def test_constraints_cover_what_comes_along():
    """Whatever a pinned package needs on this platform is pinned too."""
    names = pinned()
    for name in names:
        try:
            needed = requires(name) or []
        except PackageNotFoundError:
            continue
        for line in needed:
            requirement, _, marker = line.partition(";")
            if not marker:
                assert plain(re.match(r"[A-Za-z0-9._-]+", requirement)[0]) in names, f"{name} needs {requirement}"


def test_constraints_hold_no_address():
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text
    assert "--" not in text
