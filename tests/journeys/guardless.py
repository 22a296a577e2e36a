"""The gateway with one of its guards removed, to show that the tests notice. Run like `python -m gateway`.

GUARDLESS=journal deletes a segment of the journal as soon as Redis has its records, rather than when PostgreSQL has.
GUARDLESS=retirement ends the configuration before a reload at once, rather than when its last request has ended.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import partial

from gateway.cli import services
from gateway.cli.main import main
from gateway.downstream.client_connection import ClientConnection
from gateway.edge.edge import Edge
from gateway.metering.backlog import Backlog


async def _trust_redis(self: Backlog) -> None:
    for segment in self._waiting:
        segment.accounted = segment.accounted or (not segment.unsent and not segment.unshipped)


def _nothing(_: Edge) -> Iterator[ClientConnection]:
    return iter(())


if __name__ == "__main__":
    if os.environ["GUARDLESS"] == "journal":
        Backlog._ask = _trust_redis  # type: ignore[method-assign]
    if os.environ["GUARDLESS"] == "retirement":
        Edge._in_flight = _nothing  # type: ignore[method-assign]
    services.run_up = partial(services.run_up, program=(sys.executable, __file__))  # type: ignore[assignment]
    services.run_edge = partial(services.run_edge, program=(sys.executable, __file__))  # type: ignore[assignment]
    sys.exit(main(sys.argv[1:]))
