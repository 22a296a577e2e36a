from __future__ import annotations

import asyncio

import pytest

from gateway.background import Background
from gateway.problem import Overloaded, StoreDown
from gateway.single_flight import SingleFlight


class Well:
    """What is fetched, as often as `drawn` says; not before `open`."""

    def __init__(self, error: Exception | None = None) -> None:
        self.drawn = 0
        self.open = asyncio.Event()
        self._error = error

    async def draw(self) -> int:
        self.drawn += 1
        await self.open.wait()
        if self._error:
            raise self._error
        return self.drawn


async def test_many_ask_and_one_goes():
    background, well = Background(), Well()
    flight: SingleFlight[int] = SingleFlight("test", background, 8)
    asking = [asyncio.create_task(flight.join(b"k", well.draw)) for _ in range(20)]
    await asyncio.sleep(0)
    asking[0].cancel()  # whoever came first may leave
    await asyncio.sleep(0)
    well.open.set()
    assert await asyncio.gather(*asking[1:]) == [1] * 19
    assert await flight.join(b"k", well.draw) == 2  # nothing is remembered
    await background.stop()


async def test_an_error_is_for_all_that_asked(caplog):
    background, well = Background(), Well(StoreDown())
    flight: SingleFlight[int] = SingleFlight("test", background, 8)
    well.open.set()
    outcomes = await asyncio.gather(*(flight.join(b"k", well.draw) for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreDown] * 3
    assert well.drawn == 1
    assert not caplog.records
    await background.stop()


async def test_how_many_are_under_way_is_bounded():
    background, well = Background(), Well()
    flight: SingleFlight[int] = SingleFlight("test", background, 2)
    asking = [asyncio.create_task(flight.join(key, well.draw)) for key in (b"a", b"b", b"b")]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await flight.join(b"c", well.draw)
    well.open.set()
    await asyncio.gather(*asking)
    assert await flight.join(b"c", well.draw) == 3
    await background.stop()
