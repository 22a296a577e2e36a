"""Account: which user an embedded PostgreSQL runs as, and a place where that user can run programs and keep data.

PostgreSQL refuses to run as root. An ordinary user runs it as himself, with its data under `var/`. For root it runs
as `nobody`, an account that systems have; none is added, and no permission of a folder that is not ours is changed.
Where a folder above `var/` or above the wheel is closed to that account, as `/root` is, the data (and a copy of the
programs) are kept in `/var/lib/tallygate/<digest of the place>` instead, which root owns; of everything in it, the
account owns the data alone. A file `moved-to` in the place under `var/` says where they are.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import stat
from pathlib import Path
from typing import Final

from gateway.embedded.home import EmbeddedError

SYSTEM_DIRECTORY: Final = Path("/var/lib/tallygate")
_FIX: Final = "run as an ordinary user, or have stores.postgres name a server of yours"


class Account:
    """The user a server runs as."""

    def __init__(self, uid: int | None, system_directory: Path = SYSTEM_DIRECTORY) -> None:
        """`uid` None: the one we are."""
        self.uid = uid
        self._system_directory = system_directory

    def place(self, home: Path) -> Path:
        """The directory that holds its data: `home`, or one that it can reach. Raises EmbeddedError."""
        if self.uid is None or reaches(self.uid, home):
            return home
        moved = self._system_directory / hashlib.sha256(str(home).encode()).hexdigest()[:12]
        try:
            for directory in (self._system_directory, moved):
                directory.mkdir(exist_ok=True)
                directory.chmod(0o755)
        except OSError as error:
            raise EmbeddedError(f"{moved} cannot be made ({error.strerror}): {_FIX}") from error
        if not reaches(self.uid, moved):
            raise EmbeddedError(f"PostgreSQL, which refuses to run as root, can use neither {home} nor {moved}: {_FIX}")
        (home / "moved-to").write_text(f"{moved}\n")
        return moved

    def programs(self, package: Path, version: str, place: Path) -> Path:
        """The directory of the programs of the wheel in `package`, copied into `place` if it cannot run them there."""
        libraries = package.with_name(f"{package.name}.libs")
        installed = package / version
        if self.uid is None or (reaches(self.uid, installed / "bin") and reaches(self.uid, libraries)):
            return installed / "bin"
        copied = place / f"programs-{installed.stat().st_mtime_ns}"
        if not copied.is_dir():
            fresh = place / "programs.new"
            shutil.rmtree(fresh, ignore_errors=True)
            # The programs look for their libraries relative to themselves, so the copy keeps the wheel's layout.
            shutil.copytree(installed, fresh / package.name / version, symlinks=True)
            shutil.copytree(libraries, fresh / libraries.name, symlinks=True)
            _let_everybody_read(fresh)
            fresh.rename(copied)
        return copied / package.name / version / "bin"

    def give(self, directory: Path) -> None:
        """Makes an empty directory that is private to it."""
        directory.mkdir(mode=0o700)
        if self.uid is not None:
            os.chown(directory, self.uid, self.uid)


def account_for_servers() -> Account:
    """Who runs PostgreSQL here. Raises EmbeddedError if root finds nobody for it."""
    if os.geteuid() != 0:
        return Account(None)
    try:
        return Account(pwd.getpwnam("nobody").pw_uid)
    except KeyError:
        raise EmbeddedError(f"PostgreSQL refuses to run as root, and there is no user nobody: {_FIX}") from None


def reaches(uid: int, directory: Path) -> bool:
    """Whether a user without groups may pass through all folders down to and including `directory`."""
    resolved = directory.resolve()
    for folder in (resolved, *resolved.parents):
        status = folder.stat()
        if not status.st_mode & (stat.S_IXUSR if status.st_uid == uid else stat.S_IXOTH):
            return False
    return True


def _let_everybody_read(tree: Path) -> None:
    for folder, _, files in os.walk(tree):
        Path(folder).chmod(0o755)
        for name in files:
            file = Path(folder) / name
            if not file.is_symlink():
                file.chmod(0o755 if file.stat().st_mode & stat.S_IXUSR else 0o644)
