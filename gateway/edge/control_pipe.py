"""Control pipe: what a supervisor and its edge process say to each other, a JSON object a packet over a socket pair.

The child says `ready` once, or `failed` and why. A new configuration is taken in two steps: `prepare`, which is
answered by `prepared` or `refused`, then `commit`, which is answered by `committed`, or `abort`, which is not answered.
`report` is answered by `reported`. The supervisor says `drain`, and the child answers by ending. An end of file tells
either side that the other is gone.

File descriptors travel beside a packet (SCM_RIGHTS): the process that hears of them has them under its own numbers.
What may be long is in memory that has no name and a descriptor, because a packet has a limit.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Final, TypeAlias

import msgspec

from gateway.upstream.report import UpstreamReport


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The child serves requests."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The child cannot serve and ends; `message` is one line for whoever started it."""

    message: str


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """Accept nothing more, finish what is in flight within `deadline` seconds, and end."""

    deadline: float


class Prepare(msgspec.Struct, frozen=True, tag="prepare"):
    """Build what this generation of the configuration says, and serve on as before.

    `descriptors` are its snapshot and a listening socket for each of its listeners, in their order.
    """

    generation: int
    descriptors: tuple[int, ...]


class Prepared(msgspec.Struct, frozen=True, tag="prepared"):
    """The generation is built; nothing can go wrong any more."""

    generation: int


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The generation cannot be built; one line for each reason."""

    generation: int
    errors: list[str]


class Commit(msgspec.Struct, frozen=True, tag="commit"):
    """Serve what begins from now on with the generation that was prepared."""

    generation: int


class Committed(msgspec.Struct, frozen=True, tag="committed"):
    """It is so."""

    generation: int


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """Forget the generation that was prepared, or is being."""

    generation: int


class Report(msgspec.Struct, frozen=True, tag="report"):
    """Say what you know of your upstreams."""

    number: int


class Reported(msgspec.Struct, frozen=True, tag="reported"):
    """The answer to the report of this number, in memory behind the one descriptor."""

    number: int
    descriptors: tuple[int, ...]

    @classmethod
    def of(cls, number: int, reports: list[UpstreamReport]) -> Reported:
        """The answer that says this; its descriptor is to be closed when it was sent."""
        descriptor = os.memfd_create("tallygate-report", os.MFD_CLOEXEC)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(_encode(reports))
        return cls(number, (descriptor,))

    def read(self) -> list[UpstreamReport]:
        """What it says; to be asked once. Raises msgspec.DecodeError if that is nonsense."""
        (descriptor,) = self.descriptors
        try:
            return _decode_reports(os.pread(descriptor, LONGEST_REPORT, 0))
        finally:
            self.close()

    def close(self) -> None:
        """Nobody wants to read it."""
        for descriptor in self.descriptors:
            os.close(descriptor)


Message: TypeAlias = (
    Ready | Failed | Drain | Prepare | Prepared | Refused | Commit | Committed | Abort | Report | Reported
)

LONGEST_PACKET: Final = 64 * 1024
MOST_DESCRIPTORS: Final = 253
"""Linux passes no more with one packet."""
LONGEST_REPORT: Final = 16 * 2**20
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Message).decode
_decode_reports: Final = msgspec.json.Decoder(list[UpstreamReport]).decode


class ControlPipe:
    """One end. Either side has one."""

    def __init__(self, descriptor: int) -> None:
        """The end that is this file descriptor, and owns it from now on. Raises OSError if it is none."""
        self._end = socket.socket(fileno=descriptor)
        self._end.setblocking(False)

    @staticmethod
    def pair() -> tuple[socket.socket, socket.socket]:
        """Two ends, as the sockets they are; packets keep their borders, and the order in which they were sent."""
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def say(self, message: Message) -> bool:
        """Sends a message; whether it was sent. It is not where the other side is gone, or has long heard nothing."""
        descriptors = message.descriptors if isinstance(message, Prepare | Reported) else ()
        try:
            socket.send_fds(self._end, [_encode(message)], descriptors)
        except OSError:
            return False
        return True

    async def hear(self) -> Message | None:
        """The next message, or None when the other side is gone or talks nonsense."""
        while True:
            try:
                packet, descriptors, *_ = socket.recv_fds(self._end, LONGEST_PACKET, MOST_DESCRIPTORS)
            except BlockingIOError:
                await self._readable()
            except ConnectionResetError:
                continue  # it went without hearing all; what it said before comes now
            except OSError:
                return None
            else:
                return _message(packet, descriptors)

    def close(self) -> None:
        """Closes it. Idempotent. Nobody may be waiting to hear."""
        self._end.close()

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._end.fileno(), readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._end.fileno())


def _message(packet: bytes, descriptors: list[int]) -> Message | None:
    """What a packet says, with the descriptors that came beside it; those that nobody asked for are closed."""
    try:
        message: Message | None = _decode(packet)
    except msgspec.DecodeError:
        message = None
    if isinstance(message, Prepare | Reported) and len(message.descriptors) == len(descriptors):
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        return msgspec.structs.replace(message, descriptors=tuple(descriptors))
    for descriptor in descriptors:
        os.close(descriptor)
    return None if isinstance(message, Prepare | Reported) else message
