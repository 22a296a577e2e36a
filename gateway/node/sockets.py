"""Sockets: one listening socket for each listener and process, held by the supervisor as long as there is the listener.

With SO_REUSEPORT the kernel gives each of them its share of the connections. As the supervisor keeps them open, a
process that dies loses none of those that are waiting to be accepted: its replacement inherits the queue.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from gateway.downstream.listener import BACKLOG, parse_bind

_WHY: Final = {
    errno.EADDRINUSE: "the port is in use",
    errno.EACCES: "not permitted (ports below 1024 need root or CAP_NET_BIND_SERVICE)",
    errno.EADDRNOTAVAIL: "this machine has no such address",
}


class CannotListen(Exception):
    """An address cannot be listened on; the text is one line that says why."""


class _Bound(NamedTuple):
    """A listener's sockets, one for each slot; `address` is what `bind` came to."""

    bind: str
    address: str
    sockets: list[socket.socket]


class ListeningSockets:
    """For each slot, one socket per bind address, in the order of the addresses. Bound, but deaf until `listen`."""

    def __init__(self, binds: Sequence[str], slots: int, previous: ListeningSockets | None = None) -> None:
        """Binds those that `previous` has not; what both have they share. Raises CannotListen."""
        self._bound: list[_Bound] = []
        known = list(previous._bound) if previous is not None else []
        try:
            for bind in binds:
                shared = next((bound for bound in known if bound.bind == bind), None)
                if shared is not None:
                    known.remove(shared)
                self._bound.append(shared or _bind(bind, slots))
        except CannotListen:
            self.close(keep=previous)
            raise

    @property
    def addresses(self) -> list[str]:
        """Where it listens, in the order of the configuration."""
        return [bound.address for bound in self._bound]

    def of(self, slot: int) -> list[socket.socket]:
        """The sockets of a slot."""
        return [bound.sockets[slot] for bound in self._bound]

    def listen(self) -> None:
        """Lets clients connect; nothing changes where they can already. Raises CannotListen."""
        for bound in self._bound:
            for listening in bound.sockets:
                try:
                    listening.listen(BACKLOG)
                except OSError as error:
                    raise cannot_listen(bound.bind, error) from error

    def close(self, keep: ListeningSockets | None = None) -> None:
        """Closes our copies of those that `keep` does not share; connections that nobody accepted are refused then.

        Idempotent.
        """
        kept = keep._bound if keep is not None else []
        for bound in self._bound:
            if not any(bound is other for other in kept):
                for listening in bound.sockets:
                    listening.close()


def _bind(bind: str, slots: int) -> _Bound:
    """Raises CannotListen."""
    sockets: list[socket.socket] = []
    try:
        host, port = parse_bind(bind)
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, address = found[0][0], found[0][4]
        # SO_REUSEPORT would let us share the port with another gateway of the same user: most likely a mistake.
        with contextlib.closing(_socket(family)) as probe:
            probe.bind(address)
        for _ in range(slots):
            made = _socket(family)
            sockets.append(made)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made.bind(address)
            address = made.getsockname()  # port 0: all get the port that the first one got
    except OSError as error:
        for made in sockets:
            made.close()
        raise cannot_listen(bind, error) from error
    return _Bound(bind, written(address), sockets)


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
