"""The commands that ask the books, on a real PostgreSQL, and what they say when a store is not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli.main import main
from tests.fixtures.configuration import HEAD, ROUTES
from tests.fixtures.postgres import empty_database, postgres_server

__all__ = ["empty_database", "postgres_server"]

ROOT = Path(__file__).parents[3]
NOWHERE = "127.0.0.1:1"


def configure(postgres: str) -> None:
    stores = f'stores: {{redis: "redis://{NOWHERE}", postgres: "{postgres}"}}\n'
    Path("gateway.yaml").write_text(HEAD + ROUTES + stores)


def test_migrate_then_ask(here: Path, empty_database: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure(empty_database)
    assert main(["migrate"]) == 0
    first = capsys.readouterr().out.splitlines()
    assert first
    assert all(line.startswith(("applied 0", "applied control/0")) for line in first)
    assert main(["migrate"]) == 0
    assert capsys.readouterr().out == "the schema is up to date\n"
    assert main(["usage", "acme", "--by", "route", "--from", "2026-01-31"]) == 0
    assert capsys.readouterr().out == "no usage of acme\n"
    assert main(["rebook"]) == 0
    assert capsys.readouterr().out == "0 events booked\n"


def test_reconcile_ends_with_1_when_there_is_a_gap(
    here: Path, empty_database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(empty_database)
    assert main(["migrate"]) == 0
    capsys.readouterr()
    assert main(["reconcile"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("gap: the streams could not be looked at")
    assert lines[-1] == "1 gap"


@pytest.mark.parametrize("arguments", [["migrate"], ["usage", "acme"], ["reconcile"], ["rebook"]])
def test_a_database_that_is_not_there_is_one_line(
    here: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    configure(f"postgresql://nobody:secret@{NOWHERE}/tallygate")
    assert main(arguments) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == f"PostgreSQL at {NOWHERE}/tallygate: Connection refused\n"


@pytest.mark.parametrize("arguments", [["usage", "acme"], ["reconcile"], ["rebook"]])
def test_a_database_without_a_schema_says_what_makes_one(
    here: Path, empty_database: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    configure(empty_database)
    assert main(arguments) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert len(output.err.splitlines()) == 1
    assert "`tallygate migrate`" in output.err


@pytest.mark.parametrize(
    ("days", "text"),
    [
        (["--from", "31.1.2026"], "not a day: '31.1.2026' (write 2026-01-31)"),
        (["--from", "2026-02-01", "--to", "2026-01-31"], "--from 2026-02-01 is later than --to 2026-01-31"),
    ],
)
def test_days_that_make_no_sense_end_with_2(
    here: Path, days: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = main(["usage", "acme", *days])
    except SystemExit as exit_:
        code = exit_.code
    assert code == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["migrate"], ["usage", "acme"], ["reconcile"], ["rebook"]])
def test_an_embedded_server_that_was_never_started_is_one_line(
    here: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("gateway.yaml").write_text(HEAD + ROUTES)
    assert main(arguments) == 1
    assert capsys.readouterr().err == (
        f"no embedded PostgreSQL runs in {here}/var/postgres: run this where `tallygate up` runs, "
        "or have stores.postgres name a server\n"
    )


def test_a_worker_without_its_stores_says_so_and_ends(here: Path) -> None:
    Path("gateway.yaml").write_text(HEAD + ROUTES)
    command = [sys.executable, "-m", "gateway", "worker"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].endswith(
        "run this where `tallygate up` runs, or have stores.redis name a server"
    )


@pytest.mark.parametrize("command", ["up", "edge", "worker", "migrate", "usage", "reconcile", "rebook"])
def test_a_bad_configuration_ends_with_2(here: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("gateway.yaml").write_text(HEAD)
    assert main([command, *(["acme"] if command == "usage" else [])]) == 2
    assert capsys.readouterr().err == 'gateway.yaml:1: missing key "routes"\n'
