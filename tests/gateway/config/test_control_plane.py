"""The control plane in the configuration: what is refused, and what `check` warns of."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.cli.main import main
from tests.fixtures.certificates import Authority, authority
from tests.fixtures.configuration import HEAD, ROUTES

__all__ = ["authority"]


def checked(text: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """What `tallygate check` ends with and says about a section `control` with these lines."""
    Path("gateway.yaml").write_text(f"{HEAD}{ROUTES}control:\n{text}")
    code = main(["check"])
    said = capsys.readouterr()
    return code, said.out + said.err


@pytest.mark.parametrize(
    ("bind", "warned"),
    [
        *((bind, True) for bind in ("0.0.0.0:9091", "[::]:9091", "192.0.2.1:9091", "control.example.com:9091")),
        *((bind, False) for bind in ("127.0.0.1:9091", "127.3.2.1:9091", "[::1]:9091", "localhost:9091")),
    ],
)
def test_tokens_that_cross_a_network_in_the_clear(
    here: Path, capsys: pytest.CaptureFixture[str], authority: Authority, bind: str, warned: bool
) -> None:
    text = f'  enabled: true\n  bind: "{bind}"\n'
    said = f"warning: gateway.yaml:6: the control plane on {bind} has no `tls`"
    code, printed = checked(text, capsys)
    assert code == 0
    assert (said in printed) is warned
    issued = authority.issue("control")
    secured = f"{text}  tls: {{certificate: {issued.certificate}, key: {issued.key}}}\n"
    assert "warning" not in checked(secured, capsys)[1]


def test_a_file_that_cannot_be_used_has_its_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = checked("  tls:\n    certificate: none.pem\n    key: none.key\n", capsys)
    assert code == 2
    assert "gateway.yaml:6: control.tls.certificate: " in printed


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ('bind: "9091"', "control.bind: not an address to listen on: '9091' (write 0.0.0.0:8080 or [::1]:8080)"),
        ("audit_retention: 7d", "control.audit_retention: "),
        ("client: {url: control.example.com}", "control.client.url: "),
        ('client: {url: "https://token@control.example.com"}', "control.client.url: "),
        ("client: {certificate: a.pem}", "control.client: `certificate` and `key` belong together"),
    ],
)
def test_what_cannot_be(here: Path, capsys: pytest.CaptureFixture[str], line: str, error: str) -> None:
    code, printed = checked(f"  {line}\n", capsys)
    assert code == 2
    assert f"gateway.yaml:5: {error}" in printed
