"""The bootstrap token: from the environment or a file, made where there is none, never a weak one; and showing it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.control.principal import TOKEN_VARIABLE, Authentication, bootstrap_token
from gateway.problem import Unauthorized
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


NOBODY: Any = None
"""No database: it is not asked about the bootstrap token, nor about what cannot be a key."""
TOKEN = "a-token-of-the-bootstrap"


@pytest.mark.parametrize("said", [f"Bearer {TOKEN}", f"bearer  {TOKEN} "])
async def test_it_is_read_as_everywhere(said: str) -> None:
    assert (await Authentication(NOBODY, NOBODY, TOKEN).authenticate([said], None)).name == "bootstrap"


@pytest.mark.parametrize(
    "fields", [[], [f"Bearer {TOKEN}"] * 2, [f"Basic {TOKEN}"], ["Bearer"], ["Bearer "], [TOKEN], [f"Bearer {TOKEN}x"]]
)
async def test_whatever_else_is_said_is_refused_alike(fields: list[str]) -> None:
    with pytest.raises(Unauthorized) as caught:
        await Authentication(NOBODY, NOBODY, TOKEN).authenticate(fields, None)
    assert caught.value.headers == {"www-authenticate": 'Bearer realm="tallygate control"'}
