"""Redis: the door to Redis and Valkey, and the only place that knows the client library.

Every call has a deadline. A call that is cut short, by its deadline or by a cancellation, closes its connection: a
reply that is still on its way must never be taken for the answer to the next call. Nothing is retried here, because
only the caller knows whether doing it twice is harmless. Whatever goes wrong is a `StoreUnavailable`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from redis.asyncio.connection import ConnectionPool
from redis.exceptions import RedisError, ResponseError

from gateway.stores.store import StoreUnavailable

Argument: TypeAlias = str | bytes | int
Command: TypeAlias = tuple[Argument, ...]

FIELD: Final = b"f"
"""The field of a stream entry that holds its payload."""

BACKGROUND_DEADLINE: Final = 2.0
"""Seconds a call may take when no request waits for it."""


class Entry(NamedTuple):
    """An entry of a stream: its id (`milliseconds-sequence`) and the payload, empty if the entry has none."""

    stream: str
    identifier: str
    payload: bytes


class StreamState(NamedTuple):
    """How far a group is through a stream; ids are empty where there is no such entry.

    `length` counts the entries in the stream, `undelivered` those that nobody in the group has been given,
    `pending` those given and not acknowledged; `oldest_pending` is the smallest id among the latter.
    """

    length: int
    undelivered: int
    pending: int
    last_delivered: str
    oldest_pending: str


class Redis:
    """Calls to one server, over a bounded number of connections that are opened when they are needed."""

    def __init__(self, url: str, *, deadline: float = BACKGROUND_DEADLINE, connections: int = 16) -> None:
        """`url` is `redis://`, `rediss://` or `unix://`; `deadline` (seconds) holds for calls that give none of their
        own, waiting for one of the `connections` included. Raises ValueError for a URL it cannot read.
        """
        self._deadline = deadline
        self._slots = asyncio.Semaphore(connections)
        # Protocol 2 and no driver announcement: a fresh connection costs no round trip before its first command.
        self._pool: ConnectionPool = ConnectionPool.from_url(
            url, protocol=2, driver_info=None, socket_timeout=None, socket_connect_timeout=None
        )

    async def close(self) -> None:
        """Closes all connections. The object may be used again afterwards."""
        try:
            await self._pool.aclose()
        except (RedisError, OSError) as error:
            raise StoreUnavailable(str(error)) from error

    # Streams

    async def append(self, entries: Sequence[tuple[str, bytes]], *, deadline: float | None = None) -> list[str]:
        """Appends (stream, payload) entries in one round trip and returns their ids. Streams are never trimmed.

        Raises StoreUnavailable even if some of them were appended: the caller repeats all of them.
        """
        replies = await self._calls([("XADD", stream, "*", FIELD, payload) for stream, payload in entries], deadline)
        return [reply.decode() for reply in replies]

    async def ensure_group(self, stream: str, group: str) -> None:
        """Makes the group, from the stream's beginning, and the stream, where they do not exist."""
        try:
            await self._call(("XGROUP", "CREATE", stream, group, "0", "MKSTREAM"))
        except StoreUnavailable as error:
            if not _is_reply(error, "BUSYGROUP"):
                raise

    async def read_group(
        self, group: str, consumer: str, streams: Sequence[str], *, count: int, block_seconds: float | None = None
    ) -> list[Entry]:
        """Up to `count` entries of each stream that nobody in the group was given yet, oldest first.

        Waits up to `block_seconds` for the first one, or not at all. A missing stream or group is created.
        """
        blocking = () if block_seconds is None else ("BLOCK", max(1, int(block_seconds * 1000)))
        command: Command = (
            *("XREADGROUP", "GROUP", group, consumer, "COUNT", count, *blocking, "STREAMS"),
            *(*streams, *(">" for _ in streams)),
        )
        deadline = self._deadline + (block_seconds or 0.0)
        try:
            reply = await self._call(command, deadline)
        except StoreUnavailable as error:
            if not _is_reply(error, "NOGROUP"):
                raise
            for stream in streams:
                await self.ensure_group(stream, group)
            reply = await self._call(command, deadline)
        return [entry for stream, items in reply or () for entry in _entries(stream.decode(), items)]

    async def read_after(
        self,
        stream: str,
        identifier: str,
        state: tuple[str, Sequence[str]],
        *,
        count: int,
        block_seconds: float,
    ) -> tuple[list[bytes | None], list[Entry]]:
        """Up to `count` entries behind the one with this id, oldest first; waits up to `block_seconds` for the first.

        In the same round trip, before the entries, come some fields of a hash: `state` is its key and their names. So
        what the hash says of the stream cannot be newer than the entries. Takes a connection for as long as it waits.
        """
        key, fields = state
        commands: list[Command] = [
            ("HMGET", key, *fields),
            ("XREAD", "COUNT", count, "BLOCK", max(1, int(block_seconds * 1000)), "STREAMS", stream, identifier),
        ]
        values, reply = await self._calls(commands, self._deadline + block_seconds)
        return list(values), [entry for _, items in reply or () for entry in _entries(stream, items)]

    async def read_oldest(self, stream: str, *, count: int) -> list[Entry]:
        """Up to `count` entries from the beginning of a stream, whoever was given them."""
        return _entries(stream, await self._call(("XRANGE", stream, "-", "+", "COUNT", count)))

    async def delete(self, stream: str, identifiers: Sequence[str]) -> None:
        """Takes entries out of a stream without groups."""
        if identifiers:
            await self._call(("XDEL", stream, *identifiers))

    async def claim_stale(
        self, stream: str, group: str, consumer: str, *, idle_seconds: float, count: int
    ) -> list[Entry]:
        """Up to `count` entries that were given to another consumer and not acknowledged for `idle_seconds`."""
        command: Command = (*("XAUTOCLAIM", stream, group, consumer, int(idle_seconds * 1000), "0", "COUNT", count),)
        try:
            reply = await self._call(command)
        except StoreUnavailable as error:
            if not _is_reply(error, "NOGROUP"):
                raise
            await self.ensure_group(stream, group)
            return []
        return _entries(stream, reply[1])

    async def acknowledge(self, stream: str, group: str, identifiers: Sequence[str]) -> None:
        """Takes entries out of the group's pending list and out of the stream, both or neither."""
        if identifiers:
            await self._calls(
                [("MULTI",), ("XACK", stream, group, *identifiers), ("XDEL", stream, *identifiers), ("EXEC",)]
            )

    async def stream_states(self, streams: Sequence[str], group: str) -> list[StreamState]:
        """How far the group is through each stream. A stream or group that does not exist counts as unread."""
        commands: list[Command] = []
        for stream in streams:
            commands += [("XLEN", stream), ("XINFO", "GROUPS", stream), ("XPENDING", stream, group)]
        replies = await self._replies(commands)
        return [_stream_state(group, *replies[at : at + 3]) for at in range(0, len(replies), 3)]

    # Hashes

    async def hash_write(self, key: str, fields: Mapping[str, str | bytes | int]) -> None:
        """Sets fields of a hash."""
        if fields:
            await self._call(("HSET", key, *(part for item in fields.items() for part in item)))

    async def hash_read(self, key: str) -> dict[str, bytes]:
        """All fields of a hash, which is small."""
        reply = await self._call(("HGETALL", key))
        return {field.decode(): value for field, value in zip(reply[::2], reply[1::2], strict=True)}

    async def hash_values(self, key: str, fields: Sequence[str]) -> list[bytes | None]:
        """The values of these fields of a hash, in order; None for a field that is not there."""
        return list(await self._call(("HMGET", key, *fields))) if fields else []

    async def hash_delete(self, key: str, fields: Sequence[str]) -> None:
        """Removes fields of a hash."""
        if fields:
            await self._call(("HDEL", key, *fields))

    # Scripts

    async def run(
        self, script: str, keys: Sequence[str], arguments: Sequence[Argument] = (), *, deadline: float | None = None
    ) -> Any:
        """What a Lua script returns: numbers as int, text as bytes, false as None. Nothing else happens meanwhile.

        Its text goes with every call: no server can have forgotten it, or be told not to load it.
        """
        return await self._call(("EVAL", script, len(keys), *keys, *arguments), deadline)

    async def run_each(
        self, script: str, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]], *, deadline: float | None = None
    ) -> list[Any]:
        """What a script returns for each of several (keys, arguments), in one round trip."""
        return await self._calls(
            [("EVAL", script, len(keys), *keys, *arguments) for keys, arguments in calls], deadline
        )

    # One round trip

    async def _call(self, command: Command, deadline: float | None = None) -> Any:
        return (await self._calls([command], deadline))[0]

    async def _calls(self, commands: Sequence[Command], deadline: float | None = None) -> list[Any]:
        """The replies to several commands; raises StoreUnavailable if one of them is an error."""
        replies = await self._replies(commands, deadline)
        for reply in replies:
            for part in reply if isinstance(reply, list) else (reply,):  # EXEC replies with a list
                if isinstance(part, ResponseError):
                    raise StoreUnavailable(str(part)) from part
        return replies

    async def _replies(self, commands: Sequence[Command], deadline: float | None = None) -> list[Any]:
        """The replies to several commands sent together, errors the server replied among them."""
        if not commands:
            return []
        seconds = self._deadline if deadline is None else deadline
        try:
            async with asyncio.timeout(seconds), self._slots:
                return await self._exchange(commands)
        except TimeoutError as error:
            raise StoreUnavailable(f"no answer within {seconds:g} s") from error
        except (RedisError, OSError) as error:
            raise StoreUnavailable(str(error)) from error

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]  # its decorator is untyped
        try:
            await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            replies = []
            for _ in commands:
                try:
                    replies.append(await connection.read_response(disable_decoding=True))
                except ResponseError as error:
                    replies.append(error)
        except BaseException:
            # Cancelled or broken with replies outstanding: they die with the connection.
            await connection.disconnect(nowait=True)
            raise
        finally:
            await self._pool.release(connection)
        return replies


def _is_reply(error: StoreUnavailable, code: str) -> bool:
    """Whether the server replied with this error code."""
    cause = error.__cause__
    return isinstance(cause, ResponseError) and str(cause).startswith(code)


def _entries(stream: str, items: list[Any]) -> list[Entry]:
    entries = []
    for identifier, fields in items:
        # Deleted entries of a pending list come without fields.
        pairs = dict(zip(fields[::2], fields[1::2], strict=True)) if fields else {}
        entries.append(Entry(stream, identifier.decode(), pairs.get(FIELD, b"")))
    return entries


def _stream_state(group: str, length: Any, groups: Any, pending: Any) -> StreamState:
    if isinstance(length, ResponseError):
        raise StoreUnavailable(str(length)) from length
    if isinstance(groups, ResponseError) or isinstance(pending, ResponseError):
        return StreamState(length, length, 0, "", "")
    for item in groups:
        fields = dict(zip(item[::2], item[1::2], strict=True))
        if fields[b"name"] == group.encode():
            lag = fields.get(b"lag")
            # The server does not know the lag after some deletions; what is neither read nor deleted is unread.
            undelivered = max(0, length - pending[0]) if lag is None else lag
            return StreamState(
                length, undelivered, pending[0], fields[b"last-delivered-id"].decode(), (pending[1] or b"").decode()
            )
    return StreamState(length, length, 0, "", "")
