from __future__ import annotations

import io
import sys

import pytest

from gateway.cli.main import main
from gateway.passwords import check_hash, matches, prepared


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_hash_of_a_line_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("grüße 7\nsecond line\n"))
    assert main(["passwords", "new"]) == 0
    said = capsys.readouterr()
    name, phc = said.out.split()
    assert name == "argon2id"
    assert matches(check_hash(phc), prepared("grüße 7"))
    assert "grüße" not in said.out + said.err


@pytest.mark.parametrize("line", ["", "\n", "a\0b\n", "a\tb\n"])
def test_what_is_no_password_is_refused(monkeypatch, capsys, line):
    monkeypatch.setattr(sys, "stdin", io.StringIO(line))
    assert main(["passwords", "new"]) == 1
    assert "at least one character" in capsys.readouterr().err


@pytest.mark.parametrize(("second", "code"), [("secret", 0), ("secrte", 1)])
def test_at_a_terminal_it_is_typed_twice_and_not_seen(monkeypatch, capsys, second, code):
    typed = iter(["secret", second])
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("gateway.cli.credentials.getpass", lambda _: next(typed))
    assert main(["passwords", "new"]) == code
    said = capsys.readouterr()
    assert ("two different" in said.err) == bool(code)
    assert "secret" not in said.out
