"""The commands of the control plane, with a control plane that runs as a process of its own on real stores."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cli.control import shown, table_of
from gateway.cli.main import main
from gateway.keys import looks_valid
from tests.fixtures.configuration import HEAD, ROUTES
from tests.fixtures.ports import free_port
from tests.fixtures.postgres import empty_database, postgres_server
from tests.fixtures.valkey import ValkeyServer, valkey, valkey_process

__all__ = ["empty_database", "postgres_server", "valkey", "valkey_process"]

ROOT = Path(__file__).parents[3]

WRONG_PERMISSION = """\
The request says something that cannot be
  permissions/0: not a permission: 'Books' (write resource:action in small letters, such as books:read, books/*:* or \
!books:delete, and a condition behind ` if `)
"""
SENSELESS = [["org"], ["org", "add"], ["key", "list"], ["key", "add", "--org", "a", "--limits", "{"]]


@pytest.fixture
def port(here: Path, empty_database: str, valkey: ValkeyServer) -> int:
    """Where the control plane of the configuration in this directory is, once it runs."""
    port = free_port()
    stores = f'stores: {{redis: "{valkey.url}", postgres: "{empty_database}"}}\n'
    control = f'control: {{bind: "127.0.0.1:{port}", token_file: secret/token}}\n'
    Path("gateway.yaml").write_text(HEAD + ROUTES + stores + control)
    return port


@pytest.fixture
def running(port: int) -> Iterator[subprocess.Popen[bytes]]:
    assert main(["migrate"]) == 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-m", "gateway", "control"], env=environment)
    give_up = time.monotonic() + 20
    while not answers(port):
        assert process.poll() is None
        assert time.monotonic() < give_up
        time.sleep(0.05)
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_a_customer_from_first_to_last(
    running: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    capsys.readouterr()
    assert printed(capsys, "org", "list") == "no organizations\n"
    assert "title       Acme & Sons" in printed(capsys, "org", "add", "acme", "--title", "Acme & Sons")
    printed(capsys, "role", "add", "--org", "acme", "reader", "--permissions", "books:read, books:list")
    printed(capsys, "role", "add", "guest", "--permissions", "shop:look")
    printed(capsys, "user", "add", "--org", "acme", "ada@example.com", "--email", "ada@example.com")
    printed(capsys, "membership", "add", "--org", "acme", "--user", "ada@example.com", "--roles", "reader,guest")
    printed(capsys, "subscription", "add", "--org", "acme", "--plan", "gold")
    made = printed(
        capsys, "key", "add", "--org", "acme", "k1", "--user", "ada@example.com", "--networks", "192.0.2.0/24"
    )
    secret = made.split("\nsecret ")[1].split()[0]
    assert looks_valid(secret)
    assert "give it to its owner now" in made
    assert printed(capsys, "key", "list", "--org", "acme") == (
        "name  user             networks\nk1    ada@example.com  192.0.2.0/24\n"
    )
    limits = '[{"meter": "requests", "amount": 5, "window_seconds": 60}]'
    assert "meter=requests amount=5" in printed(capsys, "key", "set", "--org", "acme", "k1", "--limits", limits)
    assert json.loads(printed(capsys, "key", "show", "--org", "acme", "k1", "--json"))["limits"][0]["amount"] == 5
    again = printed(capsys, "key", "rotate", "--org", "acme", "k1")
    assert looks_valid(again.split("\nsecret ")[1].split()[0])
    assert "revoked_at" in printed(capsys, "key", "revoke", "--org", "acme", "k1")
    assert "disabled    yes" in printed(capsys, "org", "set", "acme", "--disabled")
    assert "disabled    no" in printed(capsys, "org", "set", "acme", "--no-disabled")
    assert printed(capsys, "role", "list") == "name   permissions\nguest  shop:look\n"
    assert printed(capsys, "role", "remove", "guest") == "guest is removed\n"
    assert "anew" in printed(capsys, "control", "project")
    changes = printed(capsys, "audit", "changes", "--limit", "1").splitlines()
    assert changes[0].split() == ["at", "actor", "kind", "name", "action", "request"]
    assert changes[1].split()[2:5] == ["global_role", "guest", "delete"]
    assert len(changes) == 2
    assert json.loads(printed(capsys, "audit", "changes", "--org", "acme", "--json", "--limit", "1"))[0]["after"]
    assert printed(capsys, "audit", "decisions", "--org", "acme") == "no decisions\n"

    token = Path("secret/token")
    assert token.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("TALLYGATE_CONTROL_TOKEN", secret)
    assert main(["org", "list"]) == 1
    assert capsys.readouterr().err == "The request carries no valid credential\n"


def test_what_is_refused_says_why(running: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]) -> None:
    printed(capsys, "org", "add", "acme")
    for arguments, text in (
        (["org", "add", "acme"], "There is such a thing already\n"),
        (["org", "show", "none"], "There is no such thing, or it is out of the caller's reach\n"),
        (
            ["role", "add", "--org", "acme", "r", "--permissions", "Books"],
            WRONG_PERMISSION,
        ),
    ):
        assert main(arguments) == 1
        assert capsys.readouterr().err == text


@pytest.mark.parametrize(
    "arguments", [["org"], ["org", "add"], ["key", "list"], ["key", "add", "--org", "a", "--limits", "{"]]
)
def test_a_senseless_command_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_without_a_control_plane_it_is_one_line(
    port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["org", "list"]) == 1
    assert "no token for the control plane: set TALLYGATE_CONTROL_TOKEN" in capsys.readouterr().err
    monkeypatch.setenv("TALLYGATE_CONTROL_TOKEN", "some-token-of-mine")
    assert main(["org", "list"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"the control plane at http://127.0.0.1:{port} does not answer")
    assert "some-token-of-mine" not in error


def test_a_table_leaves_out_what_is_empty() -> None:
    items = [{"name": "a", "title": "", "roles": ["x", "y"]}, {"name": "bcd", "title": "", "roles": []}]
    assert table_of(items, ["name", "title", "roles"]) == ["name  roles", "a     x, y", "bcd"]
    assert [shown(value) for value in (None, True, False, 7, {"a": 1, "b": None})] == ["", "yes", "no", "7", "a=1"]
