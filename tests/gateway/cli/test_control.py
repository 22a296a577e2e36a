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
from typing import Any

import pytest

from gateway.cli.control import _LIST, _SWITCH, _TEXT, _WRITTEN
from gateway.cli.main import main
from gateway.cli.tables import shown, table_of
from gateway.control.collection import COLLECTIONS
from gateway.keys import looks_valid
from tests.fixtures.certificates import Authority, authority
from tests.fixtures.configuration import HEAD, ROUTES
from tests.fixtures.ports import free_port
from tests.fixtures.postgres import empty_database, postgres_server
from tests.fixtures.valkey import ValkeyServer, valkey, valkey_process

__all__ = ["authority", "empty_database", "postgres_server", "valkey", "valkey_process"]

ROOT = Path(__file__).parents[3]

WRONG_PERMISSION = """\
The request says something that cannot be
  permissions/0: not a permission: 'Books' (write resource:action in small letters, such as books:read, books/*:* or \
!books:delete, and a condition behind ` if `)
"""


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
    process = subprocess.Popen([sys.executable, "-m", "gateway", "control"], env=process_environment())
    give_up = time.monotonic() + 20
    while not answers(port):
        assert process.poll() is None
        assert time.monotonic() < give_up
        time.sleep(0.05)
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def process_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_over_https(
    here: Path, port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], authority: Authority
) -> None:
    """One configuration for the process and for the commands that ask it."""
    issued = authority.issue("control", addresses=["127.0.0.1"])
    text = Path("gateway.yaml").read_text().replace("token_file", f"tls: {json.dumps(issued.options)}, token_file")
    Path("gateway.yaml").write_text(text.replace("secret/token", f"secret/token, client: {{ca: {authority.path}}}"))
    assert main(["migrate"]) == 0
    process = subprocess.Popen([sys.executable, "-m", "gateway", "control"], env=process_environment())
    try:
        give_up = time.monotonic() + 20
        while main(["org", "list"]) != 0:
            assert process.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.1)
        capsys.readouterr()
        printed(capsys, "org", "add", "acme")
        monkeypatch.setenv("TALLYGATE_CONTROL_URL", f"http://127.0.0.1:{port}")
        assert main(["org", "list"]) == 1
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


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
        "name  user             networks      state\nk1    ada@example.com  192.0.2.0/24  active\n"
    )
    limits = '[{"meter": "requests", "amount": 5, "window_seconds": 60}]'
    assert "meter=requests amount=5" in printed(capsys, "key", "set", "--org", "acme", "k1", "--limits", limits)
    assert json.loads(printed(capsys, "key", "show", "--org", "acme", "k1", "--json"))["limits"][0]["amount"] == 5
    again = printed(capsys, "key", "rotate", "--org", "acme", "k1")
    assert looks_valid(again.split("\nsecret ")[1].split()[0])
    assert "revoked_at" in printed(capsys, "key", "revoke", "--org", "acme", "k1")
    assert printed(capsys, "key", "list", "--org", "acme", "--json").count('"state":"revoked"') == 1
    assert "  revoked  " in printed(capsys, "key", "list", "--org", "acme")
    assert "disabled    yes" in printed(capsys, "org", "set", "acme", "--disabled")
    assert "disabled    no" in printed(capsys, "org", "set", "acme", "--no-disabled")
    assert printed(capsys, "role", "list") == "name   permissions\nguest  shop:look\n"
    assert printed(capsys, "role", "remove", "guest") == "guest is removed\n"
    assert "anew" in printed(capsys, "control", "project")
    printed(
        capsys, "key", "set", "--org", "acme", "k1", "--permissions", "[\"books:read if organization in ('a', 'b')\"]"
    )
    assert " if organization in " in printed(capsys, "key", "show", "--org", "acme", "k1")
    assert " if " not in printed(capsys, "key", "set", "--org", "acme", "k1", "--permissions", "null")
    changes = printed(capsys, "audit", "changes", "--limit", "1").splitlines()
    assert changes[0].split() == ["at", "actor", "organization", "kind", "name", "action", "request"]
    assert changes[1].split()[2:6] == ["acme", "api_key", "k1", "change"]
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
    printed(capsys, "user", "add", "--org", "acme", "ada")
    printed(capsys, "key", "add", "--org", "acme", "k1", "--user", "ada")
    printed(capsys, "subscription", "add", "--org", "acme", "--plan", "gold")
    printed(capsys, "membership", "add", "--org", "acme", "--user", "ada", "--roles", "")
    said = "The request says something that cannot be\n"
    for arguments, text in (
        (["org", "remove", "acme"], "There are users that belong to it: change or remove them first, or disable it.\n"),
        (["org", "show", "acme/keys"], "There is no such thing, or it is out of the caller's reach\n"),
        (
            ["user", "remove", "--org", "acme", "ada"],
            "There are keys that belong to it, and keys stay on record: disable it instead.\n",
        ),
        (["key", "add", "--org", "acme", "--user", "bob"], f"{said}  user: There is no user of this name.\n"),
        (
            ["key", "add", "--org", "acme", "--service-account", "robot"],
            f"{said}  service_account: There is no service account of this name.\n",
        ),
        (
            ["key", "add", "--org", "acme", "--user", "ada", "--service-account", "x"],
            f"{said}  a key belongs to a user or to a service account, not to both\n",
        ),
        (
            ["team", "add", "--org", "acme", "t", "--department", "d"],
            f"{said}  department: There is no department of this name.\n",
        ),
        (
            ["subscription", "add", "--org", "acme", "--plan", "silver"],
            "Another subscription counts: say in its `ended_at` when it ended, first.\n",
        ),
        (
            ["membership", "add", "--org", "acme", "--user", "ada", "--roles", ""],
            "The user has a membership there already: change that one.\n",
        ),
        (
            ["key", "set", "--org", "acme", "k1", "--expires-at", "tomorrow"],
            f"{said}  expires_at: not a point in time with its offset: write 2026-01-31T12:00:00Z\n",
        ),
        (["team", "set", "--org", "acme", "t"], "nothing to change: say what (one or more of --title, --department)\n"),
        (["org", "add", "acme"], "There is such a thing already\n"),
        (["org", "show", "none"], "There is no organization of this name within reach.\n"),
        (["key", "show", "--org", "acme", "k2"], "There is no key of this name.\n"),
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


def test_every_member_is_written_as_it_is() -> None:
    """A switch for what is true or false, commas or JSON for lists of texts, JSON for lists of objects."""
    forms: dict[str, Any] = {"boolean": _SWITCH, "string": _LIST, "object": _WRITTEN["limits"]}
    for collection in COLLECTIONS:
        schema = collection.shape.model_json_schema()
        for name, said in schema["properties"].items():
            kind = said.get("anyOf", [said])[0]
            items = kind.get("items", {})
            form = (
                "object" if "$ref" in items else items.get("type", "text" if kind["type"] == "string" else kind["type"])
            )
            assert _WRITTEN.get(name, _TEXT) is forms.get(form, _TEXT), name


def test_help_warns_of_what_is_easily_mistaken(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["key", "add", "--help"], ("not enforced by this version", "A name that no route has opens nothing")),
        (["--help"], ("those of fixed consumers, in the file: `keys new`", "those of the control plane: `key add`")),
        (["keys", "new", "--help"], ("fixed consumer",)),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        told = " ".join(capsys.readouterr().out.split())
        for each in said:
            assert each in told


def test_a_table_leaves_out_what_is_empty() -> None:
    items = [{"name": "a", "title": "", "roles": ["x", "y"]}, {"name": "bcd", "title": "", "roles": []}]
    assert table_of(items, ["name", "title", "roles"]) == ["name  roles", "a     x, y", "bcd"]
    assert [shown(value) for value in (None, True, False, 7, {"a": 1, "b": None})] == ["", "yes", "no", "7", "a=1"]
