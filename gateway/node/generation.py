"""Generation: a configuration in the form in which all edge processes of a node take it, or none does."""

from __future__ import annotations

from gateway.config.configuration import GatewayConfig
from gateway.config.snapshot import Snapshot
from gateway.node.sockets import ListeningSockets


class Generation:
    """What the supervisor hands to a process that is to run this configuration.

    `number` grows with every generation that is tried, so that an answer about one is never taken for another's.
    """

    def __init__(self, number: int, config: GatewayConfig, slots: int, previous: Generation | None = None) -> None:
        """Binds the listeners that `previous` does not have. Raises CannotListen."""
        self.number = number
        self.config = config
        self.slots = slots
        binds = [listener.bind for listener in config.listeners]
        self.sockets: ListeningSockets = ListeningSockets(binds, slots, previous.sockets if previous else None)
        self.snapshot = Snapshot(config.source)
        self.fingerprint = config.source.fingerprint()

    def descriptors(self, slot: int) -> tuple[int, ...]:
        """What the process in this slot needs: the snapshot, and a socket for each listener, in their order."""
        return (self.snapshot.descriptor, *(listening.fileno() for listening in self.sockets.of(slot)))

    def close(self, keep: Generation | None = None) -> None:
        """It is not, or no longer, to be run: closes what it does not share with `keep`. Idempotent."""
        self.sockets.close(keep.sockets if keep is not None else None)
        self.snapshot.close()
