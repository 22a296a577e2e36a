"""Migration: brings a database to the schema of this version, one file of `schema/` after the other.

Each file is applied once, in a transaction of its own that also records its checksum. A file that was changed after it
was applied is refused: what a database says it has must be what it has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import resources

from gateway.billing.database import login


class MigrationRefused(Exception):
    """The files of this version do not continue what was applied to the database."""


def schema_files() -> dict[str, str]:
    """The text of each file of `schema/` by name, in the order they are applied."""
    files = {
        file.name: file.read_text("utf-8")
        for file in resources.files(__package__).joinpath("schema").iterdir()
        if file.name.endswith(".sql")
    }
    return dict(sorted(files.items()))


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
    missing = [name for name in files if name not in applied]
    if applied and missing and missing[0] < max(applied):
        raise MigrationRefused(f"{missing[0]} would be applied after {max(applied)}; number it higher")
    return missing


async def migrate(url: str, files: Mapping[str, str] | None = None) -> list[str]:
    """Applies what is outstanding and returns the names of the files applied; the second time, none.

    The login of `url` needs the right to create roles. Two that migrate at once wait for each other.
    Raises MigrationRefused, DatabaseUnavailable, or the error of a faulty file.
    """
    files = schema_files() if files is None else files
    async with login(url) as connection:
        await connection.run("lock_migration")
        await connection.run("create_schema_migration")
        applied = {row["name"]: row["checksum"] for row in await connection.rows("applied_migrations")}
        names = outstanding(files, applied)
        for name in names:
            async with connection.atomic():
                await connection.script(files[name])
                await connection.run("record_migration", name, _checksum(files[name]))
        return names
