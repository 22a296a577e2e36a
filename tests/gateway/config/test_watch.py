"""Watching files: a change is noticed however it is made, taken once it is at rest, and taken once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.config.composition import ConfigError, load
from gateway.config.reader import read
from gateway.config.watch import ConfigWatch

TEXT = "listeners: !include listeners.yaml\nother: ${file:secret}\n"


class Watched:
    """A watch of a file that includes another, and how often it has noticed something."""

    def __init__(self) -> None:
        self.noticed = 0
        self.wanted = True
        self.watch = ConfigWatch(self._changed, wanted=lambda: self.wanted)
        Path("gateway.yaml").write_text(TEXT)
        Path("listeners.yaml").write_text("- {bind: a}\n")
        Path("secret").write_text("one")
        self.follow()

    def follow(self) -> None:
        self.watch.follow(read("gateway.yaml", {}).files)

    async def _changed(self) -> None:
        self.noticed += 1

    async def look(self, times: int) -> int:
        for _ in range(times):
            await self.watch.look()
        return self.noticed


@pytest.fixture
def watched(here: Path) -> Watched:
    return Watched()


def rewrite(size: int = 9) -> None:
    Path("gateway.yaml").write_text(TEXT + "#" * (size + 1))


def same_size() -> None:
    Path("listeners.yaml").write_text("- {bind: b}\n")


def replace() -> None:
    status = os.stat("secret")
    Path("new").write_text("two")
    os.utime("new", ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace("new", "secret")


def remove() -> None:
    Path("secret").unlink()


def behind_a_link() -> None:
    Path("elsewhere").write_text("one")
    Path("secret").unlink()
    Path("secret").symlink_to("elsewhere")


@pytest.mark.parametrize("change", [rewrite, same_size, replace, remove, behind_a_link])
async def test_any_change_is_noticed_once_it_is_at_rest(watched: Watched, change: Callable[[], None]) -> None:
    assert await watched.look(3) == 0
    change()
    assert await watched.look(1) == 0
    assert await watched.look(1) == 1
    assert await watched.look(3) == 1


async def test_a_file_that_goes_on_changing_is_waited_for(watched: Watched) -> None:
    for size in range(5):
        rewrite(size)
        assert await watched.look(1) == 0
    assert await watched.look(1) == 1


async def test_a_change_that_is_taken_back_is_none(watched: Watched) -> None:
    status = os.stat("secret")
    os.utime("secret", ns=(0, 0))
    assert await watched.look(1) == 0
    os.utime("secret", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert await watched.look(5) == 0


async def test_what_was_read_otherwise_is_not_noticed_again(watched: Watched) -> None:
    rewrite()
    watched.follow()
    assert await watched.look(5) == 0


async def test_it_looks_only_while_it_is_wanted(watched: Watched) -> None:
    watched.wanted = False
    rewrite()
    assert await watched.look(5) == 0
    watched.wanted = True
    assert await watched.look(2) == 1


def test_a_configuration_that_is_refused_says_which_files_it_looked_into(here: Path) -> None:
    Path("gateway.yaml").write_text("listeners: !include gone.yaml\nroutes: []\n")
    with pytest.raises(ConfigError) as refusal:
        load("gateway.yaml", {})
    assert refusal.value.files.keys() == {"gateway.yaml", "gone.yaml"}
    assert refusal.value.files["gone.yaml"] is None
    Path("gateway.yaml").unlink()
    with pytest.raises(ConfigError) as refusal:
        load("gateway.yaml", {})
    assert dict(refusal.value.files) == {"gateway.yaml": None}
