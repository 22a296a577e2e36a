"""The command line: what each command prints and the code it ends with."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import __version__
from gateway.cli.main import main
from gateway.keys import digest, looks_valid
from tests.fixtures.plugin_folder import STAMP, Write

ROOT = Path(__file__).parents[3]

GOOD = """\
listeners: [{bind: "127.0.0.1:8080"}]
upstreams: {demo: {targets: ["http://127.0.0.1:9001", "http://127.0.0.1:9002"]}}
plugins: [stamp: {text: x}]
routes:
  - name: books
    upstream: demo
    match: {host: api.example.com, path: /books/*, methods: [GET, HEAD], headers: {x-kind: "books"}}
    plugins: [idle_plugin: {}]
  - {name: all, upstream: demo}
"""
IDLE = """
from gateway.plugin import Plugin, PluginConfig


class Config(PluginConfig): ...


class Idle(Plugin[Config]): ...
"""


def test_check_shows_each_walk(here: Path, write_plugin: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write_plugin("stamp", STAMP)
    write_plugin("idle_plugin", IDLE)
    Path("gateway.yaml").write_text(GOOD)
    assert main(["check"]) == 0
    assert (
        capsys.readouterr().out
        == """\
gateway.yaml: valid, 2 routes, 1 upstream, 1 listener

books: GET|HEAD api.example.com/books/* x-kind=books
  stamp        on_request, on_chunk
  idle_plugin  no hooks
  → demo (http://127.0.0.1:9001, http://127.0.0.1:9002)

all: any method /*
  stamp  on_request, on_chunk
  → demo (http://127.0.0.1:9001, http://127.0.0.1:9002)
"""
    )


def test_check_names_every_error_and_ends_with_2(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("other.yaml").write_text("listeners: []\nroutes: []\n")
    assert main(["check", "--config", "other.yaml"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == (
        "other.yaml:1: listeners: needs at least 1 item\nother.yaml:2: routes: needs at least 1 item\n"
    )


def test_a_file_that_is_not_there_is_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 2
    assert capsys.readouterr().err == "gateway.yaml: cannot be read: No such file or directory\n"


@pytest.mark.parametrize(("arguments", "mode"), [([], "live"), (["--live"], "live"), (["--test"], "test")])
def test_keys_new(arguments: list[str], mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "new", *arguments]) == 0
    key, sha256 = (line.split()[1] for line in capsys.readouterr().out.splitlines())
    assert key.startswith(f"tg_{mode}_")
    assert looks_valid(key)
    assert sha256 == digest(key).hex()


def test_reference_writes_and_checks(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["reference", "--directory", "."]
    assert main([*arguments, "--check"]) == 1
    assert main(arguments) == 0
    assert main([*arguments, "--check"]) == 0
    Path("reference.md").write_text("something else")
    capsys.readouterr()
    assert main([*arguments, "--check"]) == 1
    assert capsys.readouterr().err == "reference.md: out of date, run `tallygate reference`\n"


def test_reference_without_its_directory_says_so(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reference"]) == 1
    assert capsys.readouterr().err == "config/reference.md: No such file or directory\n"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"tallygate {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["keys"], ["keys", "new", "--live", "--test"], ["check", "x"]])
def test_a_senseless_command_line_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: tallygate" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["gateway.cli.main", "gateway.node.up"])
def test_ctrl_c_while_modules_are_loaded_prints_nothing(module: str) -> None:
    code = f"""
import builtins, os, signal
from gateway.__main__ import run
load = builtins.__import__
def interrupted(name, *rest):
    if name == {module!r}:
        os.kill(os.getpid(), signal.SIGINT)
    return load(name, *rest)
builtins.__import__ = interrupted
run()
"""
    ended = subprocess.run([sys.executable, "-c", code, "up"], check=False, cwd=ROOT, capture_output=True, timeout=30)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, b"", b"")


def test_a_reader_that_leaves_early_is_no_crash() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [sys.executable, "-m", "gateway", "version"],
        check=False,
        cwd=ROOT,
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=30,
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, b"")


@pytest.mark.parametrize("arguments", [["org", "list", "--bogus"], ["check", "--bogus"], ["keys", "new", "--bogus"]])
def test_an_option_that_a_command_does_not_have_shows_the_usage_of_that_command(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    said = capsys.readouterr().err
    assert said.startswith(f"usage: tallygate {' '.join(arguments[:-1])} ")
    assert "unrecognized arguments: --bogus" in said


def test_help_names_every_command_and_each_is_where_it_is_looked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    named = re.findall(r"^    ([a-z-]+)", capsys.readouterr().out, re.MULTILINE)
    assert len(named) > 20
    for name in named:
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: tallygate {name} ")


def test_a_small_command_does_not_wait_for_what_it_does_not_need() -> None:
    code = "import sys; from gateway.cli.main import main; main(['version']); sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT, timeout=30).returncode == 0
