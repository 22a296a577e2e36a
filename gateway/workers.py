"""Workers: threads for what computes too long for the event loop, such as the hash of a password."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

from gateway.metrics import Metrics
from gateway.problem import Overloaded, retry_after

P = ParamSpec("P")
T = TypeVar("T")

_THREADS: Final = 2
_QUEUE: Final = 64
"""What may wait for a thread; beyond it, work is refused."""


class Workers:
    """A process's threads. They gain something only where the work lets go of the interpreter, as OpenSSL does."""

    def __init__(self, metrics: Metrics, *, threads: int = _THREADS, queue: int = _QUEUE) -> None:
        self._threads = ThreadPoolExecutor(threads, "worker")  # each thread begins when it is first needed
        self._most = threads + queue
        self._jobs = 0
        self._gauge = metrics.gauge("tallygate_workers_jobs", "Jobs that threads have in hand or that wait for one.")
        self._refused = metrics.counter(
            "tallygate_workers_refused_total", "Jobs that were refused because too many waited for a thread."
        )

    async def run(self, job: Callable[P, T], *arguments: P.args, **_: P.kwargs) -> T:
        """What `job` returns for these arguments, computed in a thread. Raises what it raises, and Overloaded where too
        much is waiting already.
        """
        if self._jobs >= self._most:
            self._refused.inc()
            raise Overloaded(headers=retry_after(1))
        working = asyncio.get_running_loop().run_in_executor(self._threads, job, *arguments)
        self._count(1)
        working.add_done_callback(lambda _: self._count(-1))
        return await working

    def close(self) -> None:
        """What waits is given up; what a thread has in hand is not waited for. Idempotent."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _count(self, change: int) -> None:
        self._jobs += change
        self._gauge.set(self._jobs)
