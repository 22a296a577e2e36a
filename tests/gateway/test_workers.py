from __future__ import annotations

import asyncio
import threading

import pytest

from gateway.metrics import Metrics
from gateway.problem import Overloaded
from gateway.workers import Workers


async def test_work_is_done_elsewhere_and_what_it_raises_comes_back():
    workers = Workers(Metrics(None))
    assert await workers.run(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await workers.run(lambda: 1 // 0)
    workers.close()


async def test_what_waits_is_bounded():
    metrics = Metrics(None)
    workers = Workers(metrics, threads=1, queue=2)
    gate = threading.Event()
    jobs = [asyncio.create_task(workers.run(gate.wait)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as refused:
        await workers.run(gate.wait)
    assert refused.value.headers == {"retry-after": "1"}
    assert metrics.counter("tallygate_workers_refused_total", _doc("refused")).value == 1
    assert metrics.gauge("tallygate_workers_jobs", _doc("jobs")).value == 3
    gate.set()
    assert await asyncio.gather(*jobs) == [True, True, True]
    assert await workers.run(gate.wait)  # there is room again
    assert metrics.gauge("tallygate_workers_jobs", _doc("jobs")).value == 0
    workers.close()


def _doc(name: str) -> str:
    return {
        "jobs": "Jobs that threads have in hand or that wait for one.",
        "refused": "Jobs that were refused because too many waited for a thread.",
    }[name]
