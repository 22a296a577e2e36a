"""The Dockerfile, looked at without an engine: two stages, only the product in the last, no root, a health check."""

from __future__ import annotations

import json
import re
import tomllib
from fnmatch import fnmatch

import pytest

from tests.house.tree import ROOT, files


def instructions() -> list[tuple[str, str]]:
    """The instructions in order, continued lines joined, comments left out."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [
        (word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines()) if word
    ]


def stages() -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for word, rest in instructions():
        if word == "FROM":
            found.append([])
        if found:
            found[-1].append((word, rest))
    return found


def of(stage: list[tuple[str, str]], word: str) -> list[str]:
    return [rest for name, rest in stage if name == word]


def test_there_are_two_stages_on_a_pinned_python():
    assert len(stages()) == 2
    for stage in stages():
        image = stage[0][1].split(" ")[0]
        assert re.fullmatch(r"python:3\.\d+-slim", image)


def test_the_last_stage_installs_nothing():
    commands = " ".join(of(stages()[-1], "RUN"))
    assert not re.search(r"\b(apt-get|apt|pip|gcc|make|curl|wget)\b", commands)


def test_nothing_is_fetched_from_a_url():
    assert of(instructions(), "ADD") == []
    assert "://" not in " ".join(rest for word, rest in instructions() if word in ("COPY", "RUN"))


def test_it_does_not_run_as_root():
    last = stages()[-1]
    users = of(last, "USER")
    assert users
    assert users[-1].split(":")[0] not in ("0", "root")
    words = [word for word, _ in last]
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert not any(word in ("RUN", "COPY") for word in words[words.index("USER") :]), "nothing is written as the user"


def test_health_is_asked_of_the_admin_listener_with_python():
    (check,) = of(stages()[-1], "HEALTHCHECK")
    command = json.loads(check[check.index("[") :])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "HEALTHCHECK", "exec")
    assert "/health" in command[2]
    assert ":9090" in command[2], "the admin listener's default port"


def test_the_entrypoint_is_a_command_of_the_package():
    (entrypoint,) = of(stages()[-1], "ENTRYPOINT")
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert json.loads(entrypoint)[0] in scripts


def copied() -> list[str]:
    return [name for rest in of(instructions(), "COPY") if "--from" not in rest for name in rest.split(" ")[:-1]]


@pytest.mark.parametrize("name", copied())
def test_what_is_copied_exists_and_is_let_through(name):
    assert (ROOT / name).exists()
    assert any(path.parts[0] == name or str(path) == name for path in files()), f"{name} is not committed"
    assert f"!{name}" in (ROOT / ".dockerignore").read_text().splitlines()


def test_only_what_is_copied_is_let_through():
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(allowed) == sorted(copied())


def test_what_is_no_python_is_installed_too():
    """Templates, queries and the like are named in pyproject.toml, or they stay behind."""
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    left = {path for path in files() if path.parts[0] in ("gateway", "plugins") and path.suffix not in (".py", ".md")}
    for package, patterns in named.items():
        for path in list(left):
            inside = path.name if package == "*" else str(path).removeprefix(package.replace(".", "/") + "/")
            if any(fnmatch(inside, pattern) for pattern in patterns):
                left.discard(path)
    assert left == set()
