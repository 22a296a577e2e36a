"""Migration: brings a database to the schema of this version: billing's, then the control plane's, file by file.

Each file is applied once, in a transaction of its own that also records its checksum. A file that was changed after it
was applied is refused: what a database says it has must be what it has. Each folder has a sequence of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import resources
from itertools import groupby
from pathlib import PurePosixPath
from typing import Final

from gateway.postgres import login
from gateway.trouble import Trouble

_FOLDERS: Final = {"gateway.billing": "", "gateway.control": "control/"}
"""Whose `schema/` is applied, in this order, and what the names of its files begin with."""

_QUERIES: Final = {
    "lock": "select pg_advisory_lock(7404, 0)",
    "prepare": """
        create table if not exists schema_migration (
          name       text        not null primary key,
          checksum   text        not null,
          applied_at timestamptz not null default now()
        )""",
    "applied": "select name, checksum from schema_migration order by name",
    # Runs after the file, as whoever the file left in charge.
    "record": "insert into schema_migration (name, checksum) values ($1, $2)",
}


class MigrationRefused(Trouble):
    """The files of this version do not continue what was applied to the database."""


def schema_files() -> dict[str, str]:
    """The text of each file of a schema by name, in the order they are applied."""
    return {
        prefix + file.name: file.read_text("utf-8")
        for package, prefix in _FOLDERS.items()
        for file in sorted(resources.files(package).joinpath("schema").iterdir(), key=lambda file: file.name)
        if file.name.endswith(".sql")
    }


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def outstanding(files: Mapping[str, str], applied: Mapping[str, str]) -> list[str]:
    """Names of the files still to apply, in order. `applied` has the checksum of each applied file by name.

    Raises MigrationRefused if an applied file was changed or is missing, or would be overtaken by a new one.
    """
    for name, checksum in applied.items():
        if name not in files:
            raise MigrationRefused(f"{name} was applied to this database, but this version does not have it")
        if _checksum(files[name]) != checksum:
            raise MigrationRefused(f"{name} was changed after it was applied; put a change into a new file")
    missing = []
    for folder, names in groupby(files, lambda name: PurePosixPath(name).parent):
        last = max((name for name in applied if PurePosixPath(name).parent == folder), default="")
        fresh = [name for name in names if name not in applied]
        if fresh and fresh[0] < last:
            raise MigrationRefused(f"{fresh[0]} would be applied after {last}; number it higher")
        missing += fresh
    return missing


async def migrate(url: str, files: Mapping[str, str] | None = None) -> list[str]:
    """Applies what is outstanding and returns the names of the files applied; the second time, none.

    The login of `url` needs the right to create roles. Two that migrate at once wait for each other.
    Raises MigrationRefused, DatabaseUnavailable, or the error of a faulty file.
    """
    files = schema_files() if files is None else files
    async with login(url, _QUERIES) as connection:
        await connection.run("lock")
        await connection.run("prepare")
        applied = {row["name"]: row["checksum"] for row in await connection.rows("applied")}
        names = outstanding(files, applied)
        for name in names:
            async with connection.atomic():
                await connection.script(files[name])
                await connection.run("record", name, _checksum(files[name]))
        return names
