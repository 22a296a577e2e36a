"""The commands about the configuration: what differs, and asking a running gateway to take it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.main import main
from gateway.config.composition import load
from gateway.config.description import describe

GOOD = """\
listeners: [{bind: "127.0.0.1:8080"}]
admin: {bind: "127.0.0.1:%d"}
upstreams: {demo: {targets: ["http://127.0.0.1:9001"]}}
routes: [{name: all, upstream: demo, plugins: [key_auth: ]}]
"""


class Running:
    """An admin listener that answers what it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.document: Any = {}
        self.asked: list[str] = []
        running = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                running.asked.append(f"{self.command} {self.path}")
                self.send_response(running.status)
                self.end_headers()
                document = running.document
                self.wfile.write(document if isinstance(document, bytes) else json.dumps(document).encode())

            def log_message(self, *_: Any) -> None:
                """A test's output is not the place for it."""

        Handler.do_GET = Handler.do_POST = Handler.answer  # type: ignore[attr-defined]
        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port


@pytest.fixture
def running(here: Path) -> Iterator[Running]:
    running = Running()
    thread = threading.Thread(target=running.server.serve_forever)
    thread.start()
    Path("gateway.yaml").write_text(GOOD % running.port)
    yield running
    running.server.shutdown()
    thread.join()
    running.server.server_close()


def test_what_is_behind_a_route(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = '"http://127.0.0.1:9001"]}, other: {targets: ["http://127.0.0.1:9002"]}}'
    routes = """\
routes:
  - {name: split, split: [{upstream: demo, weight: 95}, {upstream: other, weight: 5}], fallback: {upstream: demo}}
  - name: single
    match: {path: /single}
    upstream: demo
    mirror: {upstream: other, share: 10%}
    fallback: {reply: {status: 404}}
"""
    text = (GOOD % 9090).replace('"http://127.0.0.1:9001"]}}', other)
    Path("gateway.yaml").write_text(text[: text.index("routes:")] + routes)
    assert main(["check"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "",
        "split: any method /*",
        "  → 95% to demo (http://127.0.0.1:9001)",
        "  → 5% to other (http://127.0.0.1:9002)",
        "  else demo (http://127.0.0.1:9001)",
        "",
        "single: any method /single",
        "  → demo (http://127.0.0.1:9001)",
        "  else a reply of 404",
        "  and a copy of 10% to other (http://127.0.0.1:9002)",
    ]


def test_a_route_that_meters_and_asks_nobody_who_they_are(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metered = GOOD.replace("key_auth: ", "metering: {meters: [requests]}")
    Path("gateway.yaml").write_text(metered % 9090)
    assert main(["check"]) == 0
    warning = "  ! nothing is billed here: no plugin of this route says who calls\n"
    assert warning in capsys.readouterr().out
    Path("gateway.yaml").write_text(metered.replace("plugins: [", "plugins: [key_auth: , ") % 9090)
    assert main(["check"]) == 0
    assert warning not in capsys.readouterr().out


def test_a_difference_from_another_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("gateway.yaml").write_text(GOOD % 9090)
    Path("other.yaml").write_text((GOOD % 9090).replace("9001", "9002"))
    assert main(["check", "--diff", "gateway.yaml"]) == 0
    assert capsys.readouterr().out == "gateway.yaml: valid, 1 route, 1 upstream, 1 listener\nno difference\n"
    assert main(["check", "--diff", "other.yaml"]) == 0
    assert capsys.readouterr().out == (
        "gateway.yaml: valid, 1 route, 1 upstream, 1 listener\n"
        "  upstream demo: targets[http://127.0.0.1:9001] added\n"
        "  upstream demo: targets[http://127.0.0.1:9002] removed\n"
    )


def test_a_difference_from_what_runs_that_takes_protection_away(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    running.document = {"configuration": describe(load("gateway.yaml", {}))}
    assert main(["check", "--diff", "running"]) == 0
    assert "no difference" in capsys.readouterr().out
    Path("gateway.yaml").write_text((GOOD % running.port).replace(", plugins: [key_auth: ]", ""))
    assert main(["check", "--diff", "running"]) == 1
    assert capsys.readouterr().out == (
        "gateway.yaml: valid, 1 route, 1 upstream, 1 listener\n"
        "! route all: authentication removed (it was key_auth)\n"
        "  route all: plugins key_auth → none\n"
        "  route all, plugin key_auth: removed\n"
        "\n"
        "! 1 change of these takes protection away.\n"
    )
    assert running.asked == ["GET /configuration"] * 2


def test_a_reload_that_is_taken(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    running.document = {"changes": ["! route all: authentication removed (it was key_auth)", "  route new: added"]}
    assert main(["reload"]) == 0
    assert capsys.readouterr().out.splitlines() == running.document["changes"]
    running.document = {"changes": []}
    assert main(["reload"]) == 0
    assert capsys.readouterr().out == "nothing has changed\n"
    assert running.asked == ["POST /reload"] * 2


def test_a_reload_that_is_refused(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    running.status, running.document = (
        422,
        {"title": "No", "errors": ["gateway.yaml:3: wrong", "gateway.yaml:4: worse"]},
    )
    assert main(["reload"]) == 2
    assert capsys.readouterr().err == "gateway.yaml:3: wrong\ngateway.yaml:4: worse\n"
    running.status, running.document = 500, {"title": "The gateway failed to do its work"}
    assert main(["reload"]) == 1
    assert capsys.readouterr().err == "The gateway failed to do its work\n"


def test_the_admin_listener_may_be_elsewhere(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    Path("gateway.yaml").write_text(GOOD % 1)
    running.document = {"changes": []}
    assert main(["reload", "--admin", f"127.0.0.1:{running.port}"]) == 0
    assert main(["reload", "--admin", f"0.0.0.0:{running.port}"]) == 0
    assert main(["reload"]) == 1
    assert capsys.readouterr().err == "no admin listener answers on 127.0.0.1:1: Connection refused\n"
    with pytest.raises(SystemExit) as senseless:
        main(["reload", "--admin", "nowhere"])
    assert senseless.value.code == 2


@pytest.mark.parametrize("document", [b"hello", b"[]", b'"x"'])
def test_somebody_else_who_answers_there(running: Running, document: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    running.document = document
    for command in (["reload"], ["check", "--diff", "running"]):
        assert main(command) == 1
        assert capsys.readouterr().err == f"what answers on 127.0.0.1:{running.port} is no admin listener\n"


def test_a_file_that_is_wrong_is_not_even_asked_about(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    Path("gateway.yaml").write_text("listeners: []\n")
    assert main(["reload"]) == 2
    assert main(["check", "--diff", "running"]) == 2
    assert running.asked == []


def test_check_shows_what_stands_in_the_options_of_a_plugin(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = "any_of: {plugins: [key_auth: , anonymous: {organization: o}]}"
    Path("gateway.yaml").write_text((GOOD % 9090).replace("key_auth: ", parts))
    assert main(["check"]) == 0
    assert "  any_of  on_request\n    key_auth\n    anonymous\n" in capsys.readouterr().out
