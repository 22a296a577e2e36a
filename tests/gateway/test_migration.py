"""Migrations: once each, in order, never rewritten."""

from __future__ import annotations

import asyncio
from hashlib import sha256

import asyncpg
import pytest

from gateway.billing.database import READER, WORKER, Database, DatabaseUnavailable
from gateway.migration import MigrationRefused, migrate, outstanding, schema_files
from tests.fixtures.postgres import database_url, empty_database, fetch, postgres_server, run_sql

__all__ = ["database_url", "empty_database", "postgres_server"]


async def test_the_second_time_there_is_nothing_to_do(empty_database):
    assert await migrate(empty_database) == list(schema_files())
    assert await migrate(empty_database) == []
    assert await fetch(empty_database, "select name from schema_migration order by 1") == [
        (name,) for name in schema_files()
    ]


async def test_two_at_once_do_the_work_once(empty_database):
    first, second = await asyncio.gather(migrate(empty_database), migrate(empty_database))
    assert sorted(first + second) == list(schema_files())


async def test_a_file_that_was_changed_is_refused_and_nothing_happens(empty_database):
    files = schema_files()
    await migrate(empty_database, files)
    name = next(iter(files))
    changed = {**files, name: files[name] + "-- a remark\n", "0009_more.sql": "create table more ()"}
    with pytest.raises(MigrationRefused, match=name):
        await migrate(empty_database, changed)
    assert await fetch(empty_database, "select to_regclass('more')") == [(None,)]


async def test_a_file_that_fails_leaves_nothing_behind(empty_database):
    files = schema_files()
    broken = {**files, "0009_broken.sql": "create table half (); select 1 / 0"}
    with pytest.raises(Exception, match="division by zero"):
        await migrate(empty_database, broken)
    assert await fetch(empty_database, "select to_regclass('half')") == [(None,)]
    assert await migrate(empty_database, {**files, "0009_whole.sql": "create table half ()"}) == ["0009_whole.sql"]


def test_a_new_file_cannot_slip_in_before_an_applied_one():
    files = {"0001_a.sql": "a", "0002_b.sql": "b", "0003_c.sql": "c"}
    applied = {name: sha256(files[name].encode()).hexdigest() for name in ("0001_a.sql", "0003_c.sql")}
    with pytest.raises(MigrationRefused, match="number it higher"):
        outstanding(files, applied)
    with pytest.raises(MigrationRefused, match="does not have it"):
        outstanding({}, applied)


def test_each_folder_has_a_sequence_of_its_own():
    files = {"0001_a.sql": "a", "0002_b.sql": "b", "control/0001_c.sql": "c", "control/0002_d.sql": "d"}
    applied = {name: sha256(files[name].encode()).hexdigest() for name in ("0001_a.sql", "control/0001_c.sql")}
    assert outstanding(files, applied) == ["0002_b.sql", "control/0002_d.sql"]
    del applied["control/0001_c.sql"]
    applied["control/0002_d.sql"] = sha256(b"d").hexdigest()
    with pytest.raises(MigrationRefused, match=r"control/0001_c\.sql would be applied after"):
        outstanding(files, applied)


async def test_a_login_that_is_no_superuser_can_do_it(postgres_server, empty_database):
    """As a hosted PostgreSQL has it: the right to make roles, and the database is its own."""
    name = empty_database.rsplit("/", 1)[1]
    await run_sql(
        postgres_server.url(),
        "create role hosted login createrole",
        "grant tallygate_owner, tallygate_worker, tallygate_control, tallygate_reader, tallygate_publisher to hosted",
        f"alter database {name} owner to hosted",
    )
    try:
        url = empty_database.replace("postgres@", "hosted@")
        assert await migrate(url) == list(schema_files())
        async with Database(url, WORKER) as database, database.session() as session:
            assert await session.raw.fetchval("select current_user || ' ' || session_user") == "tallygate_worker hosted"
    finally:
        await run_sql(postgres_server.url(), f"drop database {name} with (force)", f"create database {name}")
        await run_sql(postgres_server.url(), "drop role hosted")


async def test_a_reader_can_look_at_everything_and_touch_nothing(database_url):
    async with Database(database_url, READER) as database, database.session() as session:
        tables = await session.raw.fetch("select tablename from pg_tables where schemaname = 'public'")
        assert len(tables) >= 10
        for (table,) in tables:
            await session.raw.fetch(f"select * from {table}")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await session.raw.execute(f"delete from {table}")


async def test_without_a_schema_the_error_says_what_to_do(empty_database):
    async with Database(empty_database, WORKER) as database:
        with pytest.raises(DatabaseUnavailable, match="tallygate migrate"):
            async with database.session() as session:
                await session.rows("nodes")
