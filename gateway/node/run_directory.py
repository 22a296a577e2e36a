"""Run directory: where the processes of one run keep the cells of their metrics; gone when the run is."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

_PREFIX: Final = "tallygate-run-"


class RunDirectory:
    """A private directory among the temporary files (`TMPDIR`), named after the process that made it."""

    def __init__(self) -> None:
        """Makes it, and removes those that killed runs of the same user left. Raises OSError."""
        _sweep(Path(tempfile.gettempdir()))
        self.path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))

    def cells(self, process: str) -> Path:
        """The file in which a process counts, under the same name in each of its lives."""
        return self.path / f"metrics.{process}"

    def remove(self) -> None:
        """Deletes it with all that is in it. Idempotent."""
        shutil.rmtree(self.path, ignore_errors=True)


def _sweep(directory: Path) -> None:
    for path in directory.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, ValueError):
            pid = int(path.name.removeprefix(_PREFIX).partition("-")[0])
            if path.stat().st_uid == os.geteuid() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
                shutil.rmtree(path)
