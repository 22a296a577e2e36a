from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.metering.directory import Directory, JournalUnusable, NoRoom

BOOT, OTHER = "0" * 16, "f" * 16


def test_a_node_keeps_its_id_unless_it_is_given_another(tmp_path: Path) -> None:
    first = Directory(tmp_path / "journal", limit=1)
    assert len(first.node) == 12
    assert Directory(tmp_path / "journal", limit=1).node == first.node
    assert Directory(tmp_path / "journal", limit=1, node="rack-7").node == "rack-7"


def test_a_file_in_its_place_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("")
    with pytest.raises(JournalUnusable, match=r"^the journal directory .*/journal cannot be used: .+$"):
        Directory(tmp_path / "journal", limit=1)


def test_a_node_file_that_is_not_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "node").write_text("../../etc")
    with pytest.raises(JournalUnusable, match="node id"):
        Directory(tmp_path, limit=1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_is_read_only_is_unusable(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(JournalUnusable, match="Permission denied"):
        Directory(tmp_path, limit=1)


def test_only_the_dead_are_adopted(tmp_path: Path) -> None:
    directory = Directory(tmp_path, limit=10_000)
    mine = directory.claim(BOOT)
    mine.create(0, 1000)
    assert directory.boots() == [BOOT]
    assert directory.adopt(BOOT) is None
    mine.close()
    adopted = directory.adopt(BOOT)
    assert adopted is not None
    assert [segment.name for segment in adopted.segments()] == [f"{directory.node}/{BOOT}/00000000"]
    assert not adopted.remove(), "a segment is left"
    adopted.segments()[0].path.unlink()
    assert adopted.remove()
    assert directory.boots() == []


def test_a_killed_process_gives_its_lock_back(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from gateway.metering.directory import Directory\n"
        f"boot = Directory(Path(sys.argv[1]), limit=1).claim('{BOOT}')\n"
        "print('claimed', flush=True); sys.stdin.read()"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"claimed\n"
        directory = Directory(tmp_path, limit=1)
        assert directory.adopt(BOOT) is None
        child.kill()
        child.wait()
    adopted = directory.adopt(BOOT)
    assert adopted is not None
    adopted.close()


def test_the_budget_is_that_of_all_processes_together(tmp_path: Path) -> None:
    directory = Directory(tmp_path, limit=2500)
    mine, other = directory.claim(BOOT), directory.claim(OTHER)
    first = mine.create(0, 1000)
    assert os.fstat(first.fd).st_size == 1000
    assert os.fstat(first.fd).st_blocks > 0, "the space is there, not only promised"
    other.create(0, 1000)
    with pytest.raises(NoRoom):
        mine.create(1, 1000)
    os.ftruncate(first.fd, 100)
    mine.create(1, 1000)
    assert [file.size for file in directory.segments()] == [100, 1000, 1000]


def test_a_disk_without_space_leaves_no_file(tmp_path: Path) -> None:
    directory = Directory(tmp_path, limit=2**62)
    mine = directory.claim(BOOT)
    with pytest.raises(OSError, match=r"space|large"):
        mine.create(0, 2**61)
    assert mine.segments() == []


def test_what_died_while_it_was_made_is_tidied_away_when_it_is_old(tmp_path: Path) -> None:
    directory = Directory(tmp_path, limit=1)
    unfinished = tmp_path / f".new-{BOOT}"
    unfinished.mkdir()
    made = unfinished.stat().st_mtime
    directory.tidy(made + 1)
    assert unfinished.exists()
    directory.tidy(made + 61)
    assert not unfinished.exists()
    assert directory.boots() == []
