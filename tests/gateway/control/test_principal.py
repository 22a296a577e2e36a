"""The bootstrap token: from the environment or a file, made where there is none, and never a weak one."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.control.principal import TOKEN_VARIABLE, bootstrap_token
from gateway.stores.store import StoreUnavailable


def test_it_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    file = tmp_path / "control" / "token"
    made = bootstrap_token(str(file), {})
    assert len(made) >= 43
    assert file.stat().st_mode & 0o777 == 0o600
    assert bootstrap_token(str(file), {}) == made


def test_the_environment_has_precedence(tmp_path: Path) -> None:
    assert bootstrap_token(str(tmp_path / "token"), {TOKEN_VARIABLE: "from-the-environment"}) == "from-the-environment"
    assert not (tmp_path / "token").exists()


@pytest.mark.parametrize("token", ["", "short", "x" * 600, "not\nprintable-not-printable", "ünicode-is-none-either"])
def test_one_that_is_none(tmp_path: Path, token: str) -> None:
    with pytest.raises(StoreUnavailable, match="16 to 512 ASCII characters"):
        bootstrap_token(str(tmp_path / "token"), {TOKEN_VARIABLE: token})


def test_a_file_that_cannot_be_had(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        bootstrap_token(str(tmp_path / "file" / "token"), {})
