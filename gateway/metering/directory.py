"""Directory: the journal's place on disk, shared by all processes of a node.

```
<journal.directory>/node                    the node's id, made once
<journal.directory>/budget.lock             held while the sizes are summed and a segment is made
<journal.directory>/<boot>/lock             locked for as long as the process lives
<journal.directory>/<boot>/00000000.segment
<journal.directory>/<boot>/00000000.damaged   what repair cut off and could not read; kept until somebody removes it
```

A directory whose lock can be taken belongs to a process that is dead, however it died: the kernel gives locks back.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from gateway.metering.segment import Segment
from gateway.metering.stream import segment_name
from gateway.trouble import Trouble

_BOOT: Final = re.compile(r"[0-9a-f]{16}")
_NODE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NEWBORN: Final = ".new-"
_PATIENCE_SECONDS: Final = 0.02


class JournalUnusable(Trouble):
    """The journal directory cannot be used."""


class NoRoom(Exception):
    """Another segment would exceed the journal's budget."""


class SegmentFile(NamedTuple):
    """A segment found on disk."""

    boot: str
    sequence: int
    path: Path
    size: int


class Directory:
    """The journal directory of a node."""

    def __init__(self, root: Path, *, limit: int, node: str = "", durable: bool = False) -> None:
        """`limit`: bytes all segments together may take. `node`: an id to use instead of the directory's own.
        `durable`: a new segment's name, too, survives a power cut. Raises JournalUnusable.
        """
        self.root = root
        self._limit = limit
        self._durable = durable
        try:
            root.mkdir(parents=True, exist_ok=True)
            self.node = node or _node_id(root)
            with (root / "budget.lock").open("ab"):
                pass
        except OSError as error:
            raise unusable(root, error) from error
        if not _NODE.fullmatch(self.node):
            raise JournalUnusable(f"{root / 'node'} does not hold a node id: {self.node[:80]!r}")

    def claim(self, boot: str) -> Boot:
        """Makes the directory of a process that is starting, and locks it. Raises JournalUnusable."""
        newborn = self.root / (_NEWBORN + boot)
        try:
            newborn.mkdir()
            lock = _try_lock(newborn)
            # It appears under its own name only when it is locked: nobody may take a newborn for dead.
            newborn.rename(self.root / boot)
        except OSError as error:
            raise unusable(self.root, error) from error
        if lock is None:
            raise JournalUnusable(f"{newborn} is locked by another process")
        return Boot(self, boot, lock)

    def boots(self) -> list[str]:
        """The processes, alive or dead, that have a directory. Raises OSError."""
        return sorted(name for name in os.listdir(self.root) if _BOOT.fullmatch(name))

    def adopt(self, boot: str) -> Boot | None:
        """Takes over a dead process's directory; None if its process lives. Raises OSError."""
        lock = _try_lock(self.root / boot)
        return None if lock is None else Boot(self, boot, lock)

    def segments(self) -> list[SegmentFile]:
        """All segments of all processes. What disappears meanwhile is left out. Raises OSError."""
        return [file for boot in self.boots() for file in segment_files(self.root / boot)]

    def damaged(self) -> int:
        """How many damaged ends of segments are kept to be looked into."""
        return sum(1 for _ in self.root.glob("*/*.damaged"))

    def tidy(self, now_seconds: float) -> None:
        """Removes what a process left that died while it made its directory. Raises OSError."""
        for newborn in self.root.glob(f"{_NEWBORN}*"):
            # A young one may be in the making just now.
            if now_seconds - newborn.stat().st_mtime > 60:
                lock = _try_lock(newborn)
                if lock is not None:
                    shutil.rmtree(newborn, ignore_errors=True)
                    os.close(lock)

    def allocate(self, path: Path, size: int) -> int:
        """Makes a segment's file, all of its space reserved; returns its descriptor. May run in a thread.

        Raises NoRoom if the budget does not allow it, and OSError if the disk does not.
        """
        with self._budget_lock():
            taken = sum(file.size for file in self.segments())
            if taken + size > self._limit:
                raise NoRoom(f"{taken} of {self._limit} bytes are taken")
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, size)
                if self._durable:
                    with _opened(path.parent) as folder:
                        os.fsync(folder)
            except BaseException:
                os.close(descriptor)
                path.unlink()
                raise
            return descriptor

    @contextlib.contextmanager
    def _budget_lock(self) -> Iterator[None]:
        with (self.root / "budget.lock").open("rb") as lock:
            give_up = time.monotonic() + _PATIENCE_SECONDS
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    # Another process is counting, or was stopped while it did: the event loop does not wait for that.
                    if time.monotonic() > give_up:
                        raise
                    time.sleep(0.001)
            yield


class Boot:
    """The directory of one process, locked by whoever holds this: the process itself, or its adopter."""

    def __init__(self, directory: Directory, name: str, lock: int) -> None:
        self.name = name
        self._directory = directory
        self._path = directory.root / name
        self._lock = lock

    def create(self, sequence: int, size: int) -> Segment:
        """A new, empty segment with its space reserved. May run in a thread. Raises NoRoom, OSError."""
        segment = self._segment(sequence, size)
        descriptor = self._directory.allocate(segment.path, size)
        try:
            segment.open(descriptor)
        except BaseException:
            os.close(descriptor)
            segment.path.unlink()
            raise
        return segment

    def segments(self) -> list[Segment]:
        """The segments on disk, in the order they were made, nothing known of what is in them. Raises OSError."""
        return [self._segment(file.sequence, file.size) for file in segment_files(self._path)]

    def remove(self) -> bool:
        """Removes the directory if no segment is left, and gives up the lock. Raises OSError."""
        if os.listdir(self._path) != ["lock"]:
            return False
        (self._path / "lock").unlink()
        self._path.rmdir()
        self.close()
        return True

    def close(self) -> None:
        """Gives up the lock: from now on what is left belongs to a dead process."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _segment(self, sequence: int, size: int) -> Segment:
        name = segment_name(self._directory.node, self.name, sequence)
        return Segment(name, self._path / f"{sequence:08d}.segment", size)


def unusable(root: Path, error: OSError) -> JournalUnusable:
    """The one line that says what is wrong with a journal directory."""
    return JournalUnusable(f"the journal directory {root} cannot be used: {error.strerror or error}")


def segment_files(folder: Path) -> list[SegmentFile]:
    """The segments in a process's directory, in order; none if it is gone. Raises OSError."""
    files = []
    try:
        for path in folder.glob("[0-9]*.segment"):
            with contextlib.suppress(FileNotFoundError):
                files.append(SegmentFile(folder.name, int(path.stem), path, path.stat().st_size))
    except FileNotFoundError:
        return []
    return sorted(files)


def _node_id(root: Path) -> str:
    path = root / "node"
    if not path.exists():
        draft = root / f".node-{os.getpid()}"
        draft.write_text(os.urandom(6).hex())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)  # whoever links first has named the node
        draft.unlink()
    return path.read_text().strip()


def _try_lock(folder: Path) -> int | None:
    """The descriptor of the folder's lock, taken; None if a living process holds it. Raises OSError."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return descriptor


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
