"""Sockets: one listening socket for each listener and process, held by the supervisor as long as it runs.

With SO_REUSEPORT the kernel gives each of them its share of the connections. As the supervisor keeps them open, a
process that dies loses none of those that are waiting to be accepted: its replacement inherits the queue.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Sequence
from typing import Any, Final

from gateway.listener import BACKLOG, parse_bind

_WHY: Final = {
    errno.EADDRINUSE: "the port is in use",
    errno.EACCES: "not permitted (ports below 1024 need root or CAP_NET_BIND_SERVICE)",
    errno.EADDRNOTAVAIL: "this machine has no such address",
}


class CannotListen(Exception):
    """An address cannot be listened on; the text is one line that says why."""


class ListeningSockets:
    """For each slot, one socket per bind address, in the order of the addresses."""

    def __init__(self, binds: Sequence[str], slots: int) -> None:
        """Binds all of them, and listens. Raises CannotListen."""
        self._by_slot: list[list[socket.socket]] = [[] for _ in range(slots)]
        self.addresses: list[str] = []
        try:
            for bind in binds:
                self._listen(bind)
        except OSError as error:
            self.close()
            raise cannot_listen(bind, error) from error

    def of(self, slot: int) -> list[socket.socket]:
        """The sockets of a slot."""
        return self._by_slot[slot]

    def close(self) -> None:
        """Closes our copies; connections that nobody accepted are refused with them. Idempotent."""
        for sockets in self._by_slot:
            for listening in sockets:
                listening.close()

    def _listen(self, bind: str) -> None:
        host, port = parse_bind(bind)
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, address = found[0][0], found[0][4]
        # SO_REUSEPORT would let us share the port with another gateway of the same user: most likely a mistake.
        with contextlib.closing(_socket(family)) as probe:
            probe.bind(address)
        for sockets in self._by_slot:
            listening = _socket(family)
            sockets.append(listening)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listening.bind(address)
            listening.listen(BACKLOG)
            address = listening.getsockname()  # port 0: all get the port that the first one got
        self.addresses.append(written(address))


def cannot_listen(bind: str, error: OSError) -> CannotListen:
    """The error in one line."""
    return CannotListen(f"cannot listen on {bind}: {_WHY.get(error.errno or 0, error.strerror)}")


def written(address: tuple[Any, ...]) -> str:
    """A socket's address as it is written in the configuration."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _socket(family: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.setblocking(False)
    return made
