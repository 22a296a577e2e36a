"""Control pipe: what a supervisor and its edge process say to each other, a JSON object a line over a socket pair.

The child says `ready` once, or `failed` and why; the supervisor says `drain`. There is nothing else to say, and no
acknowledgement: a child that ends has drained, and an end of file tells either side that the other one is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Final, TypeAlias

import msgspec


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The child serves requests."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The child cannot serve and ends; `message` is one line for whoever started it."""

    message: str


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """Accept nothing more, finish what is in flight within `deadline` seconds, and end."""

    deadline: float


Message: TypeAlias = Ready | Failed | Drain

LONGEST_LINE: Final = 64 * 1024
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Message).decode


class ControlPipe:
    """One end. Either side has one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def of(cls, descriptor: int) -> ControlPipe:
        """The end that is this file descriptor, and owns it from now on. Raises OSError if it is none."""
        end = socket.socket(fileno=descriptor)
        end.setblocking(False)
        return cls(*await asyncio.open_unix_connection(sock=end, limit=LONGEST_LINE))

    def say(self, message: Message) -> None:
        """Sends a message; if the other side is gone, nobody hears it."""
        if not self._writer.is_closing():
            self._writer.write(_encode(message) + b"\n")

    async def hear(self) -> Message | None:
        """The next message, or None when the other side is gone or talks nonsense."""
        try:
            message: Message = _decode(await self._reader.readuntil(b"\n"))
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, msgspec.DecodeError, OSError):
            return None
        return message

    async def close(self) -> None:
        """Sends what is left to send, and closes. Idempotent."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
