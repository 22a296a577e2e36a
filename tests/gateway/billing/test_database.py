"""The door to PostgreSQL: errors by what to do about them, no connection with a reply outstanding, no stuck call."""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gateway import postgres
from gateway.billing import database as door
from gateway.billing.database import QUERIES, WORKER, Database, DatabaseUnavailable, Retry, Unacceptable
from gateway.postgres import parse_queries


def test_queries_are_found_by_name():
    text = "-- about all\n\n-- name: one\n-- why\nselect 1\n\n-- name: two\nselect\n  2\n"
    assert parse_queries(text) == {"one": "-- why\nselect 1", "two": "select\n  2"}
    parts = "-- part: some\n1, 2\n-- name: all\nselect {some}, '{}'\n"
    assert parse_queries(parts) == {"all": "select 1, 2, '{}'"}
    with pytest.raises(ValueError, match="twice"):
        parse_queries("-- name: one\nselect 1\n-- name: one\nselect 2\n")


def test_every_query_is_used_and_every_used_one_exists():
    sources = "".join(path.read_text() for path in Path(door.__file__).parent.glob("*.py"))
    used = {name for name in QUERIES if f'"{name}"' in sources}
    assert used == set(QUERIES)
    assert not any(re.search(r"\{\w", text) for text in QUERIES.values())
    called = set(re.findall(r"\.(?:rows|value|run)\(\s*\"(\w+)\"", sources))
    assert called <= set(QUERIES)


async def run(database: Database, statement: str) -> None:
    async with database.session() as session:
        await session.script(statement)


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("select 1 / 0", Unacceptable),
        ("select 'x'::integer", Unacceptable),
        ("do $$ begin raise exception 'x' using errcode = '40001'; end $$", Retry),
        ("do $$ begin raise exception 'x' using errcode = '40P01'; end $$", Retry),
        ("do $$ begin raise exception 'x' using errcode = '53100'; end $$", DatabaseUnavailable),
        ("do $$ begin raise exception 'x' using errcode = '57P01'; end $$", DatabaseUnavailable),
        ("do $$ begin raise exception 'x' using errcode = '23505'; end $$", Retry),
        ("select * from nowhere", DatabaseUnavailable),
        ("select pg_sleep(5)", DatabaseUnavailable),
    ],
)
async def test_errors_have_our_names(database_url, statement, error):
    async with Database(database_url, WORKER, statement_timeout=0.2) as database:
        with pytest.raises(error):
            await run(database, statement)
        await run(database, "select 1")


async def test_a_bug_keeps_its_name(database):
    with pytest.raises(Exception, match="syntax error") as caught:
        await run(database, "selekt")
    assert not isinstance(caught.value, DatabaseUnavailable | Retry | Unacceptable)


async def test_a_server_that_is_not_there(unused_tcp_port):
    async with Database(f"postgresql://postgres@127.0.0.1:{unused_tcp_port}/x", WORKER) as database:
        with pytest.raises(DatabaseUnavailable):
            await run(database, "select 1")


async def test_a_server_that_accepts_and_never_answers(monkeypatch):
    monkeypatch.setattr(postgres, "_CONNECT_SECONDS", 0.2)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Database(f"postgresql://postgres@127.0.0.1:{port}/x", WORKER) as database:
        with pytest.raises(DatabaseUnavailable):
            await run(database, "select 1")


async def test_a_cancelled_transaction_is_rolled_back_and_its_connection_is_sound(database_url):
    async with Database(database_url, WORKER, connections=1) as database:

        async def slowly() -> None:
            async with database.transaction() as connection:
                await connection.run("count_records", 0, ["s"], [1])
                await connection.script("select pg_sleep(5)")

        task = asyncio.ensure_future(slowly())
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with database.session() as session:
            assert await session.raw.fetchval("select count(*) from segment_count") == 0


async def test_a_connection_that_is_killed_in_a_transaction(database_url):
    async with Database(database_url, WORKER, connections=1) as database:

        async def interrupted() -> None:
            async with database.transaction() as connection:
                await connection.run("count_records", 0, ["s"], [1])
                await connection.script("select pg_terminate_backend(pg_backend_pid())")

        with pytest.raises(DatabaseUnavailable):
            await interrupted()
        async with database.session() as session:
            assert await session.raw.fetchval("select count(*) from segment_count") == 0


async def test_a_call_after_the_end_of_a_session_says_that_the_connection_is_lost(database_url):
    async with Database(database_url, WORKER, connections=1) as database:
        async with database.session() as session:
            await session.script("select 1")
        with pytest.raises(DatabaseUnavailable, match="connection lost: cannot call"):
            await session.script("select 1")


async def test_a_server_that_falls_silent_in_a_transaction(monkeypatch, database_url):
    """A machine that is gone: nothing comes back, not even to ROLLBACK. It costs the deadline, and the connection."""
    monkeypatch.setattr(postgres, "_GRACE_SECONDS", 0.3)
    silent = asyncio.Event()
    port = urlsplit(database_url).port

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(65536):
                if not silent.is_set():
                    writer.write(chunk)
        writer.close()

    async def through(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, back), pump(there, writer))

    proxy = await asyncio.start_server(through, "127.0.0.1", 0)
    url = database_url.replace(str(port), str(proxy.sockets[0].getsockname()[1]))
    async with proxy, Database(url, WORKER, connections=1, statement_timeout=0.2) as database:

        async def interrupted() -> None:
            async with database.transaction() as connection:
                await connection.run("count_records", 0, ["s"], [1])
                silent.set()
                await connection.run("count_records", 0, ["s"], [1])

        async with asyncio.timeout(3):
            with pytest.raises(DatabaseUnavailable):
                await interrupted()
        silent.clear()
        async with database.session() as session:
            assert await session.raw.fetchval("select count(*) from segment_count") == 0
