"""The gateway with one of its guards removed, to show that the tests notice. Run like `python -m gateway`.

GUARDLESS=journal deletes a segment of the journal as soon as Redis has its records, rather than when PostgreSQL has.
"""

from __future__ import annotations

import os
import sys
from functools import partial

from gateway import cli
from gateway.metering.backlog import Backlog


async def _trust_redis(self: Backlog) -> None:
    for segment in self._waiting:
        segment.accounted = segment.accounted or (not segment.unsent and not segment.unshipped)


if __name__ == "__main__":
    if os.environ["GUARDLESS"] == "journal":
        Backlog._ask = _trust_redis  # type: ignore[method-assign]
    cli.run_up = partial(cli.run_up, program=(sys.executable, __file__))  # type: ignore[assignment]
    sys.exit(cli.main())
