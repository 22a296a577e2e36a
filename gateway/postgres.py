"""PostgreSQL: the only door to asyncpg. A pool of connections that act as one role, and queries known by name.

Every statement has a deadline on both sides: the server gives it up (`statement_timeout`), and where the server
itself is stuck the connection is dropped. Errors leave here under names that say what a caller can do.
"""

from __future__ import annotations

import re
from asyncio import CancelledError, timeout
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final, Self, TypeAlias

import asyncpg
from asyncpg.pgproto.pgproto import UUID

from gateway.trouble import Trouble

Row: TypeAlias = Mapping[str, Any]
Uuid: TypeAlias = UUID
"""asyncpg's own UUID: made of 16 bytes in a tenth of the time that the standard one takes."""

_CONNECT_SECONDS: Final = 5.0
_GRACE_SECONDS: Final = 2.0
"""How much longer than the server's own timeout a statement may take before its connection is dropped."""
_SETTINGS: Final = {
    "application_name": "tallygate",
    "timezone": "UTC",
    "plan_cache_mode": "force_custom_plan",  # a plan must know how long its arrays are, and which day it looks at
    "jit": "off",  # compiling takes longer than any statement here runs
    "tcp_keepalives_idle": "5",  # a worker whose machine is gone must not keep its shards
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
}


class DatabaseUnavailable(Trouble):
    """PostgreSQL did not answer, or not in time, or cannot do this at present. Try again later."""


class Retry(Trouble):
    """The transaction lost against another one and left nothing behind. Try again at once."""


class Taken(Retry):
    """A row with this unique key exists already. `constraint` is what says so."""

    def __init__(self, text: str, constraint: str = "") -> None:
        super().__init__(text)
        self.constraint = constraint


class Unacceptable(Exception):
    """PostgreSQL will never take these values: a poisoned record is among them."""


class Referenced(Unacceptable):
    """A row that this one names does not exist, or one that is to go is still named by others.

    `table` is where the row is that names the other, `constraint` what forbids it.
    """

    def __init__(self, text: str, table: str = "", constraint: str = "") -> None:
        super().__init__(text)
        self.table = table
        self.constraint = constraint


def _rename(error: Exception) -> Exception | None:
    """What a foreign exception means here; None for one that is a bug. Classes of SQLSTATE: PostgreSQL, appendix A."""
    if not isinstance(error, asyncpg.PostgresError):
        text = str(error) or repr(error)
        # A value that does not fit its type is refused by asyncpg itself, as InterfaceError and ValueError at once.
        if isinstance(error, ValueError):
            return Unacceptable(text)
        # What else it calls an InterfaceError is a call of ours that came after the connection's end.
        return DatabaseUnavailable(f"connection lost: {text}" if isinstance(error, asyncpg.InterfaceError) else text)
    state = error.sqlstate or "XX000"
    if state == "23514" and error.constraint_name is None:
        return Retry(str(error))  # no partition takes the row: its day has to be opened first
    if state == "23505":
        return Taken(str(error), error.constraint_name or "")
    if state == "23503":
        return Referenced(str(error), error.table_name or "", error.constraint_name or "")
    if state[:2] in {"22", "23", "54"}:
        return Unacceptable(str(error))
    if state[:2] in {"40", "55"}:
        return Retry(str(error))
    if state in {"42P01", "42703", "42883", "42501"}:
        return DatabaseUnavailable(f"{error} (is the schema up to date? `tallygate migrate`)")
    return None if state[:2] in {"0A", "21", "26", "34", "42"} else DatabaseUnavailable(str(error))


@contextmanager
def _door() -> Iterator[None]:
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        renamed = _rename(error)
        if renamed is None:
            raise
        raise renamed from error


@contextmanager
def _connecting(place: str) -> Iterator[None]:
    """Whatever keeps a connection from opening is nothing that another batch could mend. `place` says where to."""
    try:
        with _door():
            yield
    except (Unacceptable, Retry) as error:
        raise DatabaseUnavailable(f"{place}: {error} (has `tallygate migrate` been run?)") from error
    except DatabaseUnavailable as error:
        raise DatabaseUnavailable(f"{place}: {_reason(error)}") from error


def _reason(error: DatabaseUnavailable) -> str:
    match error.__cause__:
        case TimeoutError():
            return f"no answer within {_CONNECT_SECONDS:g} s"
        case OSError(strerror=str(text)):
            return text
    return str(error)


def _place(url: str) -> str:
    """Where a URL leads to, without the credentials in it."""
    where = re.split(r"[?#]", url.partition("://")[2], maxsplit=1)[0].rpartition("@")[2]
    return f"PostgreSQL at {where}"


def parse_queries(text: str) -> dict[str, str]:
    """The statements of a file by name: each follows a line `-- name: …`; other comments stay with it.

    What follows `-- part: …` is no statement, but put in where `{…}` names it. Raises ValueError for a name that
    occurs twice, KeyError for a part that does not exist.
    """
    parts: dict[str, str] = {}
    queries: dict[str, str] = {}
    pattern = r"^-- (name|part): (\w+)\n(.*?)(?=^-- (?:name|part): |\Z)"
    for kind, name, body in re.findall(pattern, text, re.MULTILINE | re.DOTALL):
        if name in queries or name in parts:
            raise ValueError(f"query {name!r} is defined twice")
        whole = re.sub(r"\{(\w+)\}", lambda match: parts[match[1]], body.strip())
        (queries if kind == "name" else parts)[name] = whole
    return queries


def _drop(connection: asyncpg.Connection) -> None:
    """Closes it without a word: a reply may still be on its way, and nobody may get this connection after us."""
    with suppress(asyncpg.InterfaceError):  # it was closed by the server, and the pool has noticed
        connection.terminate()


class Connection:
    """A connection that knows the queries by name. Each call raises DatabaseUnavailable, Retry or Unacceptable."""

    def __init__(self, connection: asyncpg.Connection, queries: Mapping[str, str]) -> None:
        self.raw = connection
        self._queries = queries

    async def rows(self, query: str, *arguments: object) -> list[Row]:
        """All rows of a query."""
        with _door():
            rows: list[Row] = await self.raw.fetch(self._queries[query], *arguments)
            return rows

    async def value(self, query: str, *arguments: object) -> Any:
        """The first column of a query's first row, or None."""
        with _door():
            return await self.raw.fetchval(self._queries[query], *arguments)

    async def run(self, query: str, *arguments: object) -> None:
        """A statement for its effect."""
        with _door():
            await self.raw.execute(self._queries[query], *arguments)

    async def batches(self, query: str, *arguments: object, size: int) -> AsyncIterator[list[Row]]:
        """The rows of a query in a transaction, `size` at a time; no more than that are in memory at once."""
        with _door():
            cursor = await self.raw.cursor(self._queries[query], *arguments)
            while rows := await cursor.fetch(size):
                yield rows

    @asynccontextmanager
    async def listening(self, channel: str, notified: Callable[[], object]) -> AsyncIterator[None]:
        """Calls `notified` for every NOTIFY on this channel, and when the connection is lost."""

        def hear(*_: object) -> None:
            notified()

        with _door():
            self.raw.add_termination_listener(hear)
            await self.raw.add_listener(channel, hear)
        try:
            yield
        finally:
            # A connection that was closed meanwhile has no listeners any more.
            with suppress(asyncpg.InterfaceError, asyncpg.PostgresError, OSError):
                self.raw.remove_termination_listener(hear)
                await self.raw.remove_listener(channel, hear)

    async def script(self, text: str) -> None:
        """Several statements of a file's text; errors of the text itself pass as they are."""
        with _door():
            await self.raw.execute(text)

    @asynccontextmanager
    async def atomic(self, *, isolation: str | None = None) -> AsyncIterator[None]:
        """All of it or nothing: a transaction, or within one a savepoint. `isolation` as asyncpg writes it."""
        with _door():
            work = self.raw.transaction(isolation=isolation)
            await work.start()
            try:
                yield
            except (DatabaseUnavailable, CancelledError):
                raise  # it would not answer ROLLBACK either; the session drops it, which rolls back as well
            except BaseException:
                await work.rollback()
                raise
            await work.commit()


@asynccontextmanager
async def login(url: str, queries: Mapping[str, str]) -> AsyncIterator[Connection]:
    """One connection that acts as whoever `url` names, and whose statements may take as long as they need."""
    with _connecting(_place(url)):
        raw = await asyncpg.connect(url, timeout=_CONNECT_SECONDS, server_settings=_SETTINGS)
    try:
        yield Connection(raw, queries)
    finally:
        await raw.close(timeout=_GRACE_SECONDS)


class Database:
    """Connections to one database, acting as one role; an async context manager that closes them at its end.

    They are opened when used: a server that is down is no error before.
    """

    def __init__(
        self,
        url: str,
        role: str,
        queries: Mapping[str, str],
        *,
        connections: int = 1,
        statement_timeout: float = 10.0,
    ) -> None:
        """`statement_timeout` in seconds."""
        self._place = _place(url)
        self._queries = queries
        self._deadline = statement_timeout + _GRACE_SECONDS
        self._options = {
            "dsn": url,
            "min_size": 0,
            "max_size": connections,
            "command_timeout": self._deadline,
            "timeout": _CONNECT_SECONDS,
            "server_settings": _SETTINGS | {"role": role, "statement_timeout": str(int(statement_timeout * 1000))},
        }

    async def __aenter__(self) -> Self:
        """Raises ValueError for what is not a URL of PostgreSQL."""
        self._pool: asyncpg.Pool = await asyncpg.create_pool(**self._options)
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            async with timeout(_GRACE_SECONDS):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Connection]:
        """A connection without a transaction: for single statements, or for locks that live as long as it does."""
        with _connecting(self._place):
            raw = await self._pool.acquire(timeout=self._deadline)
        try:
            yield Connection(raw, self._queries)
        except (DatabaseUnavailable, CancelledError):  # whose time is over does not wait for a server that stands still
            _drop(raw)
            raise
        finally:
            with _door():
                await self._pool.release(raw, timeout=_GRACE_SECONDS)

    @asynccontextmanager
    async def transaction(self, *, isolation: str | None = None) -> AsyncIterator[Connection]:
        """A connection in a transaction: committed at the end, rolled back if anything is raised, cancellation too.

        `isolation` as asyncpg writes it, such as `repeatable_read`.
        """
        async with self.session() as session, session.atomic(isolation=isolation):
            yield session
