"""An exchange as a whole: what its last byte waits for."""

from __future__ import annotations

import asyncio

import pytest

from gateway.clock import Clock
from gateway.exchange import Exchange
from gateway.problem import JournalFull
from tests.play import ask


async def test_the_last_byte_waits_for_all_that_hold_it():
    exchange = Exchange(ask(), Clock())
    assert exchange.hold_last is None
    first, second, third = (asyncio.get_running_loop().create_future() for _ in range(3))
    for future in (first, second, third):
        exchange.hold(future)
    for future in (second, third):
        future.set_result(None)
    await asyncio.sleep(0)
    assert not exchange.hold_last.done()
    first.set_result(None)
    await exchange.hold_last


async def test_one_that_fails_fails_the_answer():
    exchange = Exchange(ask(), Clock())
    first, second = (asyncio.get_running_loop().create_future() for _ in range(2))
    exchange.hold(first)
    exchange.hold(second)
    second.set_exception(JournalFull())
    with pytest.raises(JournalFull):
        await exchange.hold_last
